/* json.h: reading a JSON file from outside into cJSON, with bounds. */
#ifndef MOE_MODEL_JSON_H
#define MOE_MODEL_JSON_H

#include <cjson/cJSON.h>
#include "engine/moe.h"

/* Reads and parses the whole file. Larger than max_bytes, nested deeper than
 * 64, or malformed: MOE_E_FORMAT naming path and byte. *out: cJSON_Delete. */
moe_status json_read_file(const char *path, size_t max_bytes, cJSON **out,
                          moe_error *err);
/* Parses bytes that need not end in NUL; `what` names them in messages. */
moe_status json_parse(const char *what, const char *bytes, size_t n, cJSON **out,
                      moe_error *err);

/* Typed look-ups. *_or: the default where the key is absent or null; a value of
 * the wrong type, not whole, or outside [min, max] is MOE_E_FORMAT that names
 * path, key, expected and found. */
moe_status json_int(const cJSON *object, const char *path, const char *key,
                    int64_t min, int64_t max, int64_t *out, moe_error *err);
moe_status json_int_or(const cJSON *object, const char *path, const char *key,
                       int64_t min, int64_t max, int64_t missing, int64_t *out,
                       moe_error *err);
moe_status json_number_or(const cJSON *object, const char *path, const char *key,
                          double min, double max, double missing, double *out,
                          moe_error *err);
moe_status json_bool_or(const cJSON *object, const char *path, const char *key,
                        bool missing, bool *out, moe_error *err);
/* *out points into object; missing where absent. */
moe_status json_string_or(const cJSON *object, const char *path, const char *key,
                          const char *missing, const char **out, moe_error *err);

#endif
