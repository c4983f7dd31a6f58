/* assets.h - the files of monitor/page/ and the plotting library, built into the program. */
#ifndef ASSETS_H
#define ASSETS_H

#include <stddef.h>

typedef struct {
    const char *data; /* not NUL-terminated */
    size_t len;
} Asset;

typedef enum {
    ASSET_BODY,   /* body.html */
    ASSET_STYLE,  /* dygraphs' and page.css, in this order */
    ASSET_PLOTS,  /* dygraph.min.js (MIT licence, its notice inside) */
    ASSET_SCRIPT, /* the page's own scripts, in the order of assets.c */
} AssetKind;

/* The i-th file of a kind; .data = NULL behind the last one. */
Asset asset(AssetKind kind, int i);

#endif
