/* tokenizer_unigram.c: SentencePiece tokenizers of encoders (XLM-RoBERTa) and of T5 where
 * there is no spiece.model: tokenizer.json's "Unigram" model.
 *
 * tokenizer.json has the pieces and scores of a SentencePiece file. They are written out
 * as such a file (sentencepiece_model.proto, its wire format being protocol buffers') for
 * the library that reads those; what else tokenizer.json says of characters and spaces is
 * done to a text before, as Hugging Face does it (unigram_reader.c). Where tokenizer.json is
 * missing, the original file is taken, with fairseq's ids: <s> <pad> </s> <unk>, the file's
 * pieces one later, <mask>. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/tokenizer_loader.h"
#include "engine/text/sentencepiece.h"

static const char SPACE_MARK[] = "\xe2\x96\x81"; /* U+2581 */
enum { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, MODEL_UNIGRAM = 1 };

typedef struct {
    tokenizer_loader *l;
    spm_spec spec;
    int unk;           /* of model.unk_id */
    unsigned char *map; /* the compiled map of characters, ours */
} reader;

/* ---- what tokenizer.json says ---------------------------------------------------- */

/* Bytes of a base64 text; false: it is none. */
static bool from_base64(const char *s, unsigned char *to, size_t *n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0;
    *n = 0;
    for (; *s && *s != '='; s++) {
        const char *digit = strchr(digits, *s);
        if (!digit)
            return false;
        bits = (bits << 6 | (uint32_t)(digit - digits)) & 0xFFFFFF;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            to[(*n)++] = (unsigned char)(bits >> n_bits);
        }
    }
    return true;
}

static moe_status read_map(reader *r, const cJSON *precompiled, moe_error *err)
{
    const char *text;
    moe_status status = json_string_or(precompiled, r->l->path, "precompiled_charsmap", "", &text,
                                       err);
    if (status != MOE_OK)
        return status;
    r->map = malloc(strlen(text) + 1);
    if (!r->map)
        return tokenizer_no_memory(r->l, err);
    if (!from_base64(text, r->map, &r->spec.rules.n_map))
        return moe_fail(err, MOE_E_FORMAT, "%s: normalizer.precompiled_charsmap is no base64",
                        r->l->path);
    return MOE_OK;
}

/* One normalizer. They must come in the order in which the rules are applied. */
static moe_status read_normalizer(reader *r, const cJSON *n, moe_error *err)
{
    spm_rules *rules = &r->spec.rules;
    const char *type, *to;
    moe_status status = json_string_or(n, r->l->path, "type", "missing", &type, err);
    if (status == MOE_OK)
        status = json_string_or(n, r->l->path, "content", "", &to, err);
    if (status != MOE_OK)
        return status;
    bool stripped = rules->strip_left || rules->strip_right;
    const cJSON *regex = tokenizer_key(tokenizer_key(n, "pattern"), "Regex");
    if (!strcmp(type, "Precompiled") && !r->map && !stripped && !rules->collapse)
        return read_map(r, n, err);
    if (!strcmp(type, "Strip") && !rules->collapse) {
        rules->strip_left |= cJSON_IsTrue(tokenizer_key(n, "strip_left"));
        rules->strip_right |= cJSON_IsTrue(tokenizer_key(n, "strip_right"));
        return MOE_OK;
    }
    rules->collapse_to_mark = strcmp(to, SPACE_MARK) == 0;
    if (strcmp(type, "Replace") != 0 || !cJSON_IsString(regex) || rules->collapse ||
        strcmp(regex->valuestring, " {2,}") != 0 || (!rules->collapse_to_mark && strcmp(to, " ")))
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: normalizer %.40s, expected Precompiled, then Strip, then Replace of "
                        "' {2,}' by a space", r->l->path, type);
    rules->collapse = true;
    return MOE_OK;
}

/* f of an object, or of each in its list where it is a Sequence. */
static moe_status each(reader *r, const char *key, const char *list,
                       moe_status (*f)(reader *, const cJSON *, moe_error *), moe_error *err)
{
    const cJSON *object = tokenizer_key(r->l->json, key), *one;
    const cJSON *parts = tokenizer_key(object, list);
    moe_status status = MOE_OK;
    if (!object || cJSON_IsNull(object))
        return MOE_OK;
    if (!cJSON_IsArray(parts))
        return f(r, object, err);
    cJSON_ArrayForEach(one, parts) {
        status = f(r, one, err);
        if (status != MOE_OK)
            break;
    }
    return status;
}

static moe_status read_pre_tokenizer(reader *r, const cJSON *p, moe_error *err)
{
    const char *type, *scheme;
    bool prefix;
    moe_status status = json_string_or(p, r->l->path, "type", "missing", &type, err);
    if (status != MOE_OK)
        return status;
    if (!strcmp(type, "WhitespaceSplit")) {
        r->spec.rules.split = true;
        return MOE_OK;
    }
    if (strcmp(type, "Metaspace") != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: pre_tokenizer %.40s, expected WhitespaceSplit "
                        "or Metaspace", r->l->path, type);
    status = json_bool_or(p, r->l->path, "add_prefix_space", true, &prefix, err);
    if (status == MOE_OK)
        status = json_string_or(p, r->l->path, "prepend_scheme", prefix ? "always" : "never",
                                &scheme, err);
    if (status != MOE_OK)
        return status;
    r->spec.rules.prefix_first = strcmp(scheme, "first") == 0;
    if (!r->spec.rules.prefix_first && strcmp(scheme, "always") != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: pre_tokenizer.prepend_scheme is %.40s, "
                        "expected always or first", r->l->path, scheme);
    return MOE_OK;
}

/* ---- a SentencePiece file ---------------------------------------------------------- */

static void put_varint(FILE *f, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        fputc((int)(v & 0x7F) | 0x80, f);
    fputc((int)v, f);
}

/* Field `number` of a message: bytes, or a whole number. */
static void put_bytes(FILE *f, int number, const void *bytes, size_t n)
{
    put_varint(f, (uint64_t)number << 3 | 2);
    put_varint(f, n);
    fwrite(bytes, 1, n, f);
}

static void put_number(FILE *f, int number, uint64_t v)
{
    put_varint(f, (uint64_t)number << 3);
    put_varint(f, v);
}

static size_t varint_bytes(uint64_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

/* ModelProto.pieces (1): piece (1), score (2), type (3). */
static void put_piece(FILE *f, const char *piece, float score, int type)
{
    size_t n = strlen(piece);
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    put_varint(f, 1 << 3 | 2);
    put_varint(f, 1 + varint_bytes(n) + n + 5 + 2);
    put_bytes(f, 1, piece, n);
    put_varint(f, 2 << 3 | 5);
    for (int i = 0; i < 4; i++)
        fputc((int)(bits >> (8 * i) & 0xFF), f);
    put_number(f, 3, (uint64_t)type);
}

/* ModelProto.trainer_spec (2): model_type (3); normalizer_spec (3): no space before a
 * text (3), no spaces taken away (4). */
static void put_specs(FILE *f)
{
    put_varint(f, 2 << 3 | 2);
    put_varint(f, 2);
    put_number(f, 3, MODEL_UNIGRAM);
    put_varint(f, 3 << 3 | 2);
    put_varint(f, 4);
    put_number(f, 3, 0);
    put_number(f, 4, 0);
}

/* The id's type: special tokens are never found in a text by the model itself. */
static int type_of(const reader *r, int id)
{
    const tokenizer_loader *l = r->l;
    if (id == r->unk)
        return PIECE_UNKNOWN;
    bool special = l->added_at[id] >= 0 && l->added[l->added_at[id]].special;
    return special ? PIECE_CONTROL : PIECE_NORMAL;
}

/* model.vocab: [piece, score] by id. */
static moe_status put_pieces(reader *r, FILE *f, const cJSON *vocab, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const cJSON *one;
    int id = 0;
    if (!cJSON_IsArray(vocab))
        return moe_fail(err, MOE_E_FORMAT, "%s: model.vocab is %s, expected an array", l->path,
                        vocab ? "something else" : "missing");
    cJSON_ArrayForEach(one, vocab) {
        const cJSON *piece = one->child, *score = piece ? piece->next : NULL;
        if (!cJSON_IsString(piece) || !*piece->valuestring || !cJSON_IsNumber(score))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: model.vocab[%d] is something else, expected [piece, score]",
                            l->path, id);
        if (id >= l->n_vocab)
            return moe_fail(err, MOE_E_FORMAT, "%s: model.vocab has more than %d pieces, the rows "
                            "of the word embedding", l->path, l->n_vocab);
        l->vocab[id] = piece->valuestring;
        put_piece(f, piece->valuestring, (float)score->valuedouble, type_of(r, id));
        id++;
    }
    return MOE_OK;
}

/* *bytes: free(). */
static moe_status write_model(reader *r, char **bytes, size_t *n, moe_error *err)
{
    FILE *f = open_memstream(bytes, n);
    if (!f)
        return tokenizer_no_memory(r->l, err);
    const cJSON *vocab = tokenizer_key(tokenizer_key(r->l->json, "model"), "vocab");
    moe_status status = put_pieces(r, f, vocab, err);
    if (status == MOE_OK)
        put_specs(f);
    bool failed = ferror(f);
    if ((fclose(f) || failed) && status == MOE_OK)
        status = tokenizer_no_memory(r->l, err);
    return status;
}

/* ---- all ----------------------------------------------------------------------------- */

static moe_status read_json(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const cJSON *model = tokenizer_key(l->json, "model");
    tokenizer_frame frame = {0};
    int64_t unk = 0;
    bool fallback = false;
    moe_status status = json_int(model, l->path, "unk_id", 0, l->n_vocab - 1, &unk, err);
    if (status == MOE_OK)
        status = json_bool_or(model, l->path, "byte_fallback", false, &fallback, err);
    if (status == MOE_OK && fallback)
        status = moe_fail(err, MOE_E_UNSUPPORTED, "%s: model.byte_fallback is true, expected false",
                          l->path);
    r->unk = (int)unk;
    if (status == MOE_OK)
        status = each(r, "normalizer", "normalizers", read_normalizer, err);
    if (status == MOE_OK)
        status = each(r, "pre_tokenizer", "pretokenizers", read_pre_tokenizer, err);
    if (status == MOE_OK)
        status = tokenizer_read_frame(l, &frame, err);
    r->spec.begin = frame.begin;
    r->spec.end = frame.end;
    r->spec.n_between = frame.n_between;
    r->spec.unk = (int32_t)unk;
    if (status == MOE_OK)
        status = tokenizer_read_added(l, err);
    return status == MOE_OK ? tokenizer_read_decoder(l, err) : status;
}

static moe_status create(reader *r, moe_tokenizer **out, moe_error *err)
{
    tokenizer_loader *l = r->l;
    r->spec.n_vocab = l->n_vocab;
    r->spec.added = l->added;
    r->spec.n_added = l->n_added;
    r->spec.model_max_length = l->model_max_length;
    return tokenizer_create_spm(&r->spec, out, err);
}

moe_status tokenizer_load_unigram(tokenizer_loader *l, moe_tokenizer **out, moe_error *err)
{
    reader r = {.l = l, .spec = {.path = l->json_path}};
    char *bytes = NULL;
    l->path = l->json_path;
    moe_status status = read_json(&r, err);
    if (status == MOE_OK)
        status = write_model(&r, &bytes, &r.spec.n_bytes, err);
    r.spec.bytes = bytes;
    r.spec.rules.map = r.map;
    if (status == MOE_OK)
        status = tokenizer_check_complete(l, err);
    if (status == MOE_OK)
        status = create(&r, out, err);
    free(bytes);
    free(r.map);
    return status;
}

/* What fairseq's dictionary has before and after the file's pieces. */
static moe_status add_fairseq_tokens(reader *r, moe_error *err)
{
    static const char *const names[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
    spm_model *m;
    moe_status status = spm_open(r->spec.path, true, &m, err);
    if (status != MOE_OK)
        return status;
    int mask = spm_size(m) + 1;
    spm_close(m);
    for (int i = 0; i < 5 && status == MOE_OK; i++) {
        tokenizer_added_token a = {.content = names[i], .id = i < 4 ? i : mask, .special = true,
                                   .lstrip = i == 4};
        if (a.id < r->l->n_vocab && r->l->added_at[a.id] < 0)
            status = tokenizer_put_added(r->l, r->spec.path, &a, err);
    }
    return status;
}

moe_status tokenizer_load_fairseq(tokenizer_loader *l, const char *path, moe_tokenizer **out,
                                  moe_error *err)
{
    reader r = {.l = l, .spec = {.path = path, .id_offset = 1, .unk = 3, .legacy = true,
                                 .begin = 0, .end = 2, .n_between = 1}};
    l->path = path;
    moe_status status = tokenizer_read_decoder(l, err);
    if (status == MOE_OK)
        status = add_fairseq_tokens(&r, err);
    return status == MOE_OK ? create(&r, out, err) : status;
}
