/* template.h: what a text-to-text model is asked, put together from a task's template.
 *
 * A template is text with fields in braces: {text} or {question} is the row's first text,
 * {text_pair} or {context} its second. There is no way to write a brace itself. */
#ifndef MOE_TASK_TEMPLATE_H
#define MOE_TASK_TEMPLATE_H

#include "engine/moe.h"

/* MOE_E_FORMAT: a brace without its partner, or a field of another name. what: the task,
 * for messages. */
moe_status template_check(const char *what, const char *format, moe_error *err);

/* The kind of a task by name: "classification", "regression", "question-answering",
 * "text"; false, *out untouched: none. And back. */
bool template_kind_find(const char *name, moe_task *out);
const char *template_kind_name(moe_task kind);

#endif
