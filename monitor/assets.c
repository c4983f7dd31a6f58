/* assets.c - see assets.h. The assembler reads the files; paths count from where make runs. */
#include "monitor/assets.h"

#ifndef DYGRAPHS
#error "DYGRAPHS: the folder of dygraph.min.js, given by the Makefile"
#endif

#define ASSET(name, path)                                                                          \
    __asm__(".section .rodata\n"                                                                   \
            "asset_" #name ":\n.incbin \"" path "\"\n"                                             \
            "asset_" #name "_end:\n.byte 0\n.previous\n");                                         \
    extern const char name[] __asm__("asset_" #name), name##_end[] __asm__("asset_" #name "_end")

ASSET(body, "monitor/page/body.html");
ASSET(plots_style, DYGRAPHS "/dygraph.min.css");
ASSET(style, "monitor/page/page.css");
ASSET(plots, DYGRAPHS "/dygraph.min.js");
ASSET(model, "monitor/page/model.js");
ASSET(groups, "monitor/page/groups.js");
ASSET(chart, "monitor/page/chart.js");
ASSET(pictures, "monitor/page/pictures.js");
ASSET(stage, "monitor/page/stage.js");
ASSET(samples, "monitor/page/samples.js");
ASSET(recipes, "monitor/page/recipes.js");
ASSET(live, "monitor/page/live.js");
ASSET(beginning, "monitor/page/main.js");

static const struct {
    AssetKind kind;
    const char *from, *to;
} files[] = {
    {ASSET_BODY, body, body_end},
    {ASSET_STYLE, plots_style, plots_style_end},
    {ASSET_STYLE, style, style_end},
    {ASSET_PLOTS, plots, plots_end},
    {ASSET_SCRIPT, model, model_end},
    {ASSET_SCRIPT, groups, groups_end},
    {ASSET_SCRIPT, chart, chart_end},
    {ASSET_SCRIPT, pictures, pictures_end},
    {ASSET_SCRIPT, stage, stage_end},
    {ASSET_SCRIPT, samples, samples_end},
    {ASSET_SCRIPT, recipes, recipes_end},
    {ASSET_SCRIPT, live, live_end},
    {ASSET_SCRIPT, beginning, beginning_end},
};

Asset asset(AssetKind kind, int i) {
    for (size_t k = 0; k < sizeof files / sizeof *files; k++)
        if (files[k].kind == kind && i-- == 0)
            return (Asset){files[k].from, (size_t)(files[k].to - files[k].from)};
    return (Asset){0};
}
