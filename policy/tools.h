/* tools.h - tools over a model, JSON lines in and out: every row keeps its keys and gains some, so
 * that the output of one tool is the input of the next. */
#ifndef TOOLS_H
#define TOOLS_H

#include "core/base/status.h"

/* argv: flags after the verb. rlhf generate --model DIR|F.gguf (--prompt TEXT | --data F --out F)
 * [...] */
Status generate_main(int argc, char **argv);
/* A conversation on standard input and output. rlhf chat --model M [--system TEXT] [...] */
Status chat_main(int argc, char **argv);
/* rows {"text"} or {"ids"} -> + "ids","logp","entropy" */
Status logprobs_main(int argc, char **argv);
/* rows {"ids"}, {"prompt","completion"}, {"messages"}, {"text"} -> + "score" */
Status score_main(int argc, char **argv);
Status tokenize_main(int argc, char **argv);   /* rows {"text"} -> + "ids" */
Status detokenize_main(int argc, char **argv); /* rows {"ids"} -> + "text" */
/* rows {"messages"} -> + "text" and "assistant_spans", or "error" */
Status template_main(int argc, char **argv);

#endif
