/* page.h - the HTML page over runs: one file with everything in it, for a report and for the live
 * page alike.
 *
 * What models wrote never becomes markup: all data is JSON in a script element of another type, the
 * page's scripts put it in place as text only, and a Content-Security-Policy allows these scripts
 * (by hash) and nothing else. */
#ifndef PAGE_H
#define PAGE_H

#include "monitor/view.h"

/* Appends the page. runs NULL: the live page, which fetches its data from where it came. */
void page_put(Text *t, const char *title, const RunViews *runs);
/* Appends {"title","runs":[...]}: what the page is drawn from. */
void page_put_data(Text *t, const char *title, const RunViews *runs, int live);
/* Appends the value of a Content-Security-Policy for the page. */
void page_put_policy(Text *t, int live);

/* JSON text as it may stand inside <script>: every < written as \u003c. */
void page_put_inert(Text *t, const char *json, size_t n);
/* Text as it may stand between tags or in a quoted attribute. */
void page_put_escaped(Text *t, const char *s);

#endif
