/* test_model_config.c: config.json is read with its defaults, and every value
 * that is missing, wrong, huge or not supported is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/config.h"
#include "engine/model/json.h"

static const char base[] =
    "{\"architectures\":[\"BertForSequenceClassification\"],\"model_type\":\"bert\","
    "\"hidden_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"intermediate_size\":80,\"vocab_size\":60,\"max_position_embeddings\":40,"
    "\"hidden_act\":\"relu\",\"id2label\":{\"1\":\"b\",\"0\":\"a\",\"2\":\"c\"},"
    "\"label2id\":{\"a\":0,\"b\":1,\"c\":2},"
    "\"moefication\":{\"format_version\":1,\"expert_size\":32,\"n_experts\":3,"
    "\"dtype\":\"f32\",\"split\":\"random\",\"router\":{\"kind\":\"mlp\",\"normalize\":true,"
    "\"linears\":2,\"width\":10},\"layers\":[1],\"ratio_table\":["
    "{\"ratio\":0.5,\"experts\":[3,1]},{\"ratio\":0.7,\"experts\":[3,2]},"
    "{\"ratio\":1,\"experts\":[3,3]}],\"fidelity\":[{\"ratio\":0.5,\"kl\":0.1},"
    "{\"ratio\":0.7,\"kl\":0.05}],\"provenance\":{\"tool\":\"x\"}}}";

/* base with object[key] replaced by JSON text (NULL: deleted; "+key" adds);
 * `object` is "", "moefication" or "router". */
static char *edited(const char *object, const char *key, const char *value)
{
    cJSON *root = cJSON_Parse(base), *o = root;
    assert_non_null(root);
    if (strcmp(object, "") != 0)
        o = cJSON_GetObjectItem(o, "moefication");
    if (strcmp(object, "router") == 0)
        o = cJSON_GetObjectItem(o, "router");
    cJSON_DeleteItemFromObject(o, key);
    if (value) {
        cJSON *v = cJSON_Parse(value);
        if (!v)
            fail_msg("the test's own JSON is broken: %s", value);
        cJSON_AddItemToObject(o, key, v);
    }
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return text;
}

static moe_status parse(const char *object, const char *key, const char *value,
                        model_config *c, moe_error *err)
{
    char *text = edited(object, key, value);
    moe_status status = config_parse("D/config.json", text, strlen(text), c, err);
    cJSON_free(text);
    return status;
}

typedef struct {
    const char *object, *key, *value; /* value NULL: the key is missing */
    moe_status code;
    const char *message;              /* after the path */
} bad_value;

static void expect_refused(const bad_value *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const bad_value *b = &cases[i];
        model_config c;
        moe_error err = {0};
        moe_status status = parse(b->object, b->key, b->value, &c, &err);
        if (status != b->code || strncmp(err.message, "D/config.json: ", 15) != 0 ||
            !strstr(err.message, b->message))
            fail_msg("%s = %s: status %d, expected %d: '%s' should hold '%s'", b->key,
                     b->value ? b->value : "(missing)", status, b->code, err.message,
                     b->message);
        assert_null(c.root); /* nothing is owed */
    }
}

static void a_config_is_read_with_its_defaults(void **state)
{
    (void)state;
    model_config c;
    moe_error err = {0};
    if (config_parse("D/config.json", base, sizeof base - 1, &c, &err))
        fail_msg("%s", err.message);
    assert_int_equal(c.d_model, 48);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.d_ff, 80);
    assert_int_equal(c.n_experts, 3);
    assert_int_equal(c.n_types, 2);
    assert_true(c.norm_eps == 1e-12f);
    assert_int_equal(c.n_labels, 3);
    assert_string_equal(c.labels[0], "a");
    assert_string_equal(c.labels[2], "c");
    assert_int_equal(c.task, MOE_TASK_CLASSIFY);
    assert_true(c.moefied);
    assert_false(c.moe.has_router[0]);
    assert_true(c.moe.has_router[1]);
    assert_int_equal(c.moe.n_rows, 3);
    assert_int_equal(c.moe.rows[1].experts[1], 2);
    assert_int_equal(c.moe.width, 10);
    assert_non_null(strstr(c.moe.json, "\"kl\":0.05"));
    assert_int_equal(c.moe.policy, MOE_POLICY_TOPK);
    assert_null(c.moe.thresholds);
    assert_null(c.moe.rows[0].thresholds);
    config_free(&c);
}

/* What each family calls its sizes, and where its positions begin. */
static void encoders_are_read_by_their_own_keys(void **state)
{
    (void)state;
    static const char tail[] = "\"vocab_size\":60,\"max_position_embeddings\":40";
    static const char sizes[] = "\"hidden_size\":48,\"num_hidden_layers\":2,"
                                "\"num_attention_heads\":4,\"intermediate_size\":80,"
                                "\"hidden_act\":\"gelu\"";
    static const char other[] = "\"dim\":48,\"n_layers\":2,\"n_heads\":4,\"hidden_dim\":80,"
                                "\"activation\":\"relu\"";
    const struct {
        const char *type, *architecture, *sizes, *more;
        moe_family family;
        moe_task task;
        int first, n_types;
    } cases[] = {
        {"distilbert", "DistilBertForQuestionAnswering", other, "", MOE_FAMILY_DISTILBERT,
         MOE_TASK_ANSWER, 0, 0},
        {"roberta", "RobertaForSequenceClassification", sizes, ",\"type_vocab_size\":1",
         MOE_FAMILY_ROBERTA, MOE_TASK_CLASSIFY, 2, 1},
        {"xlm-roberta", "XLMRobertaForQuestionAnswering", sizes, ",\"pad_token_id\":4",
         MOE_FAMILY_ROBERTA, MOE_TASK_ANSWER, 5, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        model_config c;
        moe_error err = {0};
        snprintf(text, sizeof text, "{\"model_type\":\"%s\",\"architectures\":[\"%s\"],%s,%s%s}",
                 cases[i].type, cases[i].architecture, cases[i].sizes, tail, cases[i].more);
        if (config_parse("D/config.json", text, strlen(text), &c, &err))
            fail_msg("%s", err.message);
        assert_int_equal(c.family, cases[i].family);
        assert_int_equal(c.task, cases[i].task);
        assert_int_equal(c.first_position, cases[i].first);
        assert_int_equal(c.pad_id, cases[i].first - 1);
        assert_int_equal(c.n_types, cases[i].n_types);
        assert_true(c.d_model == 48 && c.n_layers == 2 && c.n_heads == 4 && c.d_ff == 80);
        config_free(&c);
    }
}

static void positions_behind_the_last_are_refused(void **state)
{
    (void)state;
    static const char text[] = "{\"model_type\":\"roberta\",\"architectures\":"
        "[\"RobertaForSequenceClassification\"],\"hidden_size\":48,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"intermediate_size\":80,\"hidden_act\":\"gelu\","
        "\"vocab_size\":60,\"max_position_embeddings\":40,\"pad_token_id\":37}";
    model_config c;
    moe_error err = {0};
    assert_int_equal(config_parse("D/config.json", text, sizeof text - 1, &c, &err),
                     MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "max_position_embeddings is 40, expected at least 41"));
}

/* A ratio table of two rows in which the key has the JSON texts; NULL: none. */
static const char *table_of(const char *key, const char *first, const char *last)
{
    static char text[2][512], a[128], b[128];
    static int turn;
    char *out = text[turn++ % 2];
    snprintf(a, sizeof a, ",\"%s\":%s", key, first ? first : "");
    snprintf(b, sizeof b, ",\"%s\":%s", key, last ? last : "");
    snprintf(out, sizeof text[0], "[{\"ratio\":0.5,\"experts\":[3,1]%s},"
             "{\"ratio\":1,\"experts\":[3,3]%s}]", first ? a : "", last ? b : "");
    return out;
}

static const char *table_with(const char *first, const char *last)
{
    return table_of("thresholds", first, last);
}

static void thresholds_are_read_and_may_be_the_default(void **state)
{
    (void)state;
    model_config c;
    moe_error err = {0};
    /* Layer 0 has no router: its numbers may rise. */
    char *text = edited("moefication", "ratio_table", table_with("[-9,0.25]", "[1e3,-3.5e38]"));
    assert_int_equal(config_parse("f", text, strlen(text), &c, &err), MOE_E_FORMAT);
    cJSON_free(text);
    text = edited("moefication", "ratio_table", table_with("[-9,0.25]", "[1e3,-3.4e38]"));
    cJSON *root = cJSON_Parse(text);
    cJSON_free(text);
    cJSON_AddStringToObject(cJSON_GetObjectItem(root, "moefication"), "policy", "threshold");
    text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (config_parse("f", text, strlen(text), &c, &err))
        fail_msg("%s", err.message);
    cJSON_free(text);
    assert_int_equal(c.moe.policy, MOE_POLICY_THRESHOLD);
    assert_true(c.moe.rows[0].thresholds[0] == -9 && c.moe.rows[0].thresholds[1] == 0.25f);
    assert_true(c.moe.rows[1].thresholds[0] == 1e3f && c.moe.rows[1].thresholds[1] == -3.4e38f);
    config_free(&c);
    /* They alone change no default; equal ones do not rise; null is none. */
    const char *const tables[] = {table_with("[0,1]", "[0,1]"), table_with("null", NULL)};
    for (int i = 0; i < 2; i++) {
        if (parse("moefication", "ratio_table", tables[i], &c, &err))
            fail_msg("%s", err.message);
        assert_int_equal(c.moe.policy, MOE_POLICY_TOPK);
        assert_int_equal(c.moe.thresholds != NULL, i == 0);
        config_free(&c);
    }
}

static void wrong_thresholds_are_refused(void **state)
{
    (void)state;
    const char *m = "moefication", *t = "ratio_table";
    const struct { const char *first, *last, *message; } cases[] = {
        {"[0,1]", NULL, "ratio_table[1] has no thresholds, expected all rows or none"},
        {NULL, "[0,1]", "ratio_table[1] has thresholds, expected all rows or none"},
        {"[0,1]", "null", "ratio_table[1] has no thresholds"},
        {"[0]", "[0,1]", "ratio_table[0].thresholds has 1 numbers, expected one for each of 2"},
        {"[0,1]", "[0,1,2]", "ratio_table[1].thresholds has 3 numbers"},
        {"[]", "[]", "ratio_table[0].thresholds has 0 numbers"},
        {"0.5", "0.5", "ratio_table[0].thresholds has 0 numbers"},
        {"{\"0\":1,\"1\":1}", "[0,1]", "ratio_table[0].thresholds has 0 numbers"},
        {"[0,\"x\"]", "[0,1]", "ratio_table[0].thresholds[1] is not a finite number"},
        {"[0,1]", "[0,null]", "ratio_table[1].thresholds[1] is not a finite number"},
        {"[null,1]", "[0,1]", "ratio_table[0].thresholds[0] is not a finite number"},
        {"[0,1e999]", "[0,1]", "ratio_table[0].thresholds[1] is not a finite number"},
        {"[0,1]", "[0,-1e39]", "ratio_table[1].thresholds[1] is not a finite number"},
        {"[0,1]", "[0,1.5]",
         "ratio_table[1].thresholds[1] is 1.5, expected at most 1 as in the row before"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(&(bad_value){m, t, table_with(cases[i].first, cases[i].last),
                                    MOE_E_FORMAT, cases[i].message}, 1);
    const bad_value policies[] = {
        {m, "policy", "\"top_p\"", MOE_E_UNSUPPORTED,
         "moefication.policy is \"top_p\", expected \"topk\", \"threshold\" or \"sequence\""},
        {m, "policy", "\"model\"", MOE_E_UNSUPPORTED, "moefication.policy is \"model\""},
        {m, "policy", "1", MOE_E_FORMAT, "policy is 1, expected a string"},
        {m, "policy", "\"threshold\"", MOE_E_FORMAT,
         "moefication.policy is \"threshold\", but ratio_table has no thresholds"},
        {m, "policy", "\"sequence\"", MOE_E_FORMAT,
         "moefication.policy is \"sequence\", but ratio_table has no mean_experts"},
    };
    expect_refused(policies, sizeof policies / sizeof *policies);
}

static void mean_experts_are_read_and_may_be_the_default(void **state)
{
    (void)state;
    model_config c;
    moe_error err = {0};
    char *text = edited("moefication", "ratio_table", table_of("mean_experts", "[3,0]", "[3,3]"));
    cJSON *root = cJSON_Parse(text);
    cJSON_free(text);
    cJSON_AddStringToObject(cJSON_GetObjectItem(root, "moefication"), "policy", "sequence");
    text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (config_parse("f", text, strlen(text), &c, &err))
        fail_msg("%s", err.message);
    cJSON_free(text);
    assert_int_equal(c.moe.policy, MOE_POLICY_SEQUENCE);
    assert_null(c.moe.rows[0].thresholds);
    assert_true(c.moe.rows[0].mean_experts[0] == 3 && c.moe.rows[0].mean_experts[1] == 0);
    assert_true(c.moe.rows[1].mean_experts[0] == 3 && c.moe.rows[1].mean_experts[1] == 3);
    config_free(&c);
    if (parse("moefication", "ratio_table", table_of("mean_experts", "[3,1.75]", "[3,3]"), &c, &err))
        fail_msg("%s", err.message);
    assert_int_equal(c.moe.policy, MOE_POLICY_TOPK);
    assert_true(c.moe.rows[0].mean_experts[1] == 1.75f);
    config_free(&c);
}

static void wrong_mean_experts_are_refused(void **state)
{
    (void)state;
    const char *m = "moefication", *t = "ratio_table";
    const struct { const char *first, *last, *message; } cases[] = {
        {"[3,1]", NULL, "ratio_table[1] has no mean_experts, expected all rows or none"},
        {NULL, "[3,3]", "ratio_table[1] has mean_experts, expected all rows or none"},
        {"[3]", "[3,3]", "ratio_table[0].mean_experts has 1 numbers, expected one for each of 2"},
        {"3", "[3,3]", "ratio_table[0].mean_experts has 0 numbers"},
        {"[3,\"x\"]", "[3,3]", "ratio_table[0].mean_experts[1] is not a finite number"},
        {"[3,1e999]", "[3,3]", "ratio_table[0].mean_experts[1] is not a finite number"},
        {"[3,-0.5]", "[3,3]",
         "ratio_table[0].mean_experts[1] is -0.5, expected a number in [0, 3]"},
        {"[3,3.5]", "[3,3]", "ratio_table[0].mean_experts[1] is 3.5, expected a number in [0, 3]"},
        {"[2.5,1]", "[3,3]", "ratio_table[0].mean_experts[0] is 2.5, expected a number in [3, 3]"},
        {"[3,1]", "[3,2.5]", "ratio_table[1].mean_experts[1] is 2.5, expected a number in [3, 3]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(&(bad_value){m, t, table_of("mean_experts", cases[i].first, cases[i].last),
                                    MOE_E_FORMAT, cases[i].message}, 1);
    expect_refused(&(bad_value){m, t,
        "[{\"ratio\":0.25,\"experts\":[3,1],\"mean_experts\":[3,1.5]},"
        "{\"ratio\":0.5,\"experts\":[3,1],\"mean_experts\":[3,1.25]},"
        "{\"ratio\":1,\"experts\":[3,3],\"mean_experts\":[3,3]}]", MOE_E_FORMAT,
        "ratio_table[1].mean_experts[1] is 1.25, expected a number in [1.5, 3]"}, 1);
}

static void fidelity_ascends_within_a_policy(void **state)
{
    (void)state;
    model_config c;
    moe_error err = {0};
    if (parse("moefication", "fidelity",
              "[{\"policy\":\"topk\",\"ratio\":0.125,\"kl\":0.2},"
              "{\"policy\":\"topk\",\"ratio\":0.5,\"kl\":0.1},"
              "{\"policy\":\"threshold\",\"ratio\":0.125,\"agreement\":0.9},"
              "{\"policy\":\"threshold\",\"ratio\":1,\"agreement\":1},"
              "{\"policy\":\"sequence\",\"ratio\":0.25,\"agreement\":0.95}]", &c, &err))
        fail_msg("%s", err.message);
    config_free(&c);
    const char *m = "moefication", *f = "fidelity";
    const bad_value cases[] = {
        {m, f, "[{\"policy\":\"topk\",\"ratio\":0.5},{\"policy\":\"topk\",\"ratio\":0.5}]",
         MOE_E_FORMAT, "fidelity[1].ratio is 0.5, expected a number in (0.5, 1]"},
        {m, f, "[{\"ratio\":0.5},{\"ratio\":0.25}]", MOE_E_FORMAT, "fidelity[1].ratio is 0.25"},
        {m, f, "[{\"policy\":\"best\",\"ratio\":0.5}]", MOE_E_FORMAT,
         "fidelity[0].policy is none of \"topk\", \"threshold\" and \"sequence\""},
        {m, f, "[{\"policy\":1,\"ratio\":0.5}]", MOE_E_FORMAT, "fidelity[0].policy is none of"},
        {m, f, "[{\"policy\":\"topk\",\"ratio\":0.5,\"kl\":\"topk\"}]", MOE_E_FORMAT,
         "fidelity[0].kl is not a finite"},
        {m, f, "[{\"policy\":\"topk\",\"ratio\":1},{\"policy\":\"threshold\"}]", MOE_E_FORMAT,
         "fidelity[1].ratio is -1"},
    };
    expect_refused(cases, sizeof cases / sizeof *cases);
}

static void tasks_follow_problem_type_and_labels(void **state)
{
    (void)state;
    const struct { const char *key, *value; moe_task task; int n; const char *label; } cases[] = {
        {"problem_type", "\"multi_label_classification\"", MOE_TASK_MULTI_LABEL, 3, "a"},
        {"problem_type", "null", MOE_TASK_CLASSIFY, 3, "a"},
        {"id2label", "{\"0\":\"score\"}", MOE_TASK_REGRESS, 1, "score"},
        {"id2label", NULL, MOE_TASK_CLASSIFY, 2, "LABEL_0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = edited("", cases[i].key, cases[i].value);
        cJSON *root = cJSON_Parse(text);
        cJSON_free(text);
        cJSON_DeleteItemFromObject(root, "label2id");
        text = cJSON_PrintUnformatted(root);
        model_config c;
        moe_error err = {0};
        if (config_parse("f", text, strlen(text), &c, &err))
            fail_msg("%s", err.message);
        assert_int_equal(c.task, cases[i].task);
        assert_int_equal(c.n_labels, cases[i].n);
        assert_string_equal(c.labels[0], cases[i].label);
        config_free(&c);
        cJSON_free(text);
        cJSON_Delete(root);
    }
}

static void activations_have_one_name_each(void **state)
{
    (void)state;
    const struct { const char *value, *name; moe_activation act; } cases[] = {
        {"\"gelu\"", "gelu", MOE_ACT_GELU_ERF},
        {"\"gelu_new\"", "gelu_new", MOE_ACT_GELU_TANH},
        {"\"gelu_pytorch_tanh\"", "gelu_new", MOE_ACT_GELU_TANH},
    };
    for (size_t i = 0; i < 3; i++) {
        model_config c;
        assert_int_equal(parse("", "hidden_act", cases[i].value, &c, NULL), MOE_OK);
        assert_string_equal(c.activation, cases[i].name);
        assert_int_equal(c.act, cases[i].act);
        config_free(&c);
    }
}

static void wrong_sizes_and_features_are_refused(void **state)
{
    (void)state;
    const bad_value cases[] = {
        {"", "architectures", NULL, MOE_E_FORMAT, "architectures"},
        {"", "architectures", "[]", MOE_E_FORMAT, "architectures"},
        {"", "architectures", "[\"A\",\"B\"]", MOE_E_FORMAT, "architectures"},
        {"", "architectures", "[\"T5Model\"]", MOE_E_UNSUPPORTED,
         "architectures is [\"T5Model\"], expected [\"BertForSequenceClassification\" or \"BertForQuestionAnswering\"]"},
        {"", "model_type", "\"bart\"", MOE_E_UNSUPPORTED, "model_type is \"bart\", expected \"bert\""},
        {"", "model_type", NULL, MOE_E_FORMAT, "model_type is nothing"},
        {"", "hidden_size", NULL, MOE_E_FORMAT, "hidden_size is nothing, expected a whole number"},
        {"", "hidden_size", "\"48\"", MOE_E_FORMAT, "hidden_size is \"48\""},
        {"", "hidden_size", "48.5", MOE_E_FORMAT, "hidden_size is 48.5"},
        {"", "hidden_size", "-48", MOE_E_FORMAT, "hidden_size is -48"},
        {"", "hidden_size", "50", MOE_E_FORMAT,
         "hidden_size is 50, expected a multiple of num_attention_heads, 4"},
        {"", "num_hidden_layers", "0", MOE_E_FORMAT, "num_hidden_layers is 0"},
        {"", "num_hidden_layers", "1e9", MOE_E_FORMAT, "num_hidden_layers is 1000000000"},
        {"", "num_attention_heads", "0", MOE_E_FORMAT, "num_attention_heads is 0"},
        {"", "intermediate_size", "4294967376", MOE_E_FORMAT, "intermediate_size is 4294967376"},
        {"", "intermediate_size", "1e300", MOE_E_FORMAT, "intermediate_size is 1e+300"},
        {"", "vocab_size", NULL, MOE_E_FORMAT, "vocab_size is nothing"},
        {"", "max_position_embeddings", "[]", MOE_E_FORMAT, "max_position_embeddings is an array"},
        {"", "type_vocab_size", "0", MOE_E_FORMAT, "type_vocab_size is 0"},
        {"", "layer_norm_eps", "-1", MOE_E_FORMAT, "layer_norm_eps is -1"},
        {"", "layer_norm_eps", "\"x\"", MOE_E_FORMAT, "layer_norm_eps is \"x\""},
        {"", "hidden_act", NULL, MOE_E_FORMAT, "hidden_act is nothing, expected \"relu\""},
        {"", "hidden_act", "\"silu\"", MOE_E_UNSUPPORTED, "hidden_act is \"silu\", expected \"relu\""},
        {"", "hidden_act", "3", MOE_E_FORMAT, "hidden_act is 3, expected a string"},
        {"", "position_embedding_type", "\"relative_key\"", MOE_E_UNSUPPORTED,
         "position_embedding_type is \"relative_key\", expected \"absolute\""},
        {"", "is_decoder", "true", MOE_E_UNSUPPORTED, "is_decoder is true, expected false"},
        {"", "add_cross_attention", "1", MOE_E_FORMAT, "add_cross_attention is 1"},
        {"", "pruned_heads", "{\"0\":[1]}", MOE_E_UNSUPPORTED, "pruned_heads is not empty"},
        {"", "quantization_config", "{}", MOE_E_UNSUPPORTED, "quantization_config"},
    };
    expect_refused(cases, sizeof cases / sizeof *cases);
}

static void wrong_labels_are_refused(void **state)
{
    (void)state;
    const bad_value cases[] = {
        {"", "num_labels", "2", MOE_E_FORMAT, "id2label has 3 labels, expected 2"},
        {"", "num_labels", "1e9", MOE_E_FORMAT, "num_labels is 1000000000"},
        {"", "id2label", "{}", MOE_E_FORMAT, "id2label has 0 labels"},
        {"", "id2label", "[\"a\"]", MOE_E_FORMAT, "id2label is not an object"},
        {"", "id2label", "{\"0\":\"a\",\"1\":\"b\",\"3\":\"c\"}", MOE_E_FORMAT, "id2label has \"3\""},
        {"", "id2label", "{\"0\":\"a\",\"1\":\"b\",\"01\":\"c\"}", MOE_E_FORMAT, "id2label has \"01\""},
        {"", "id2label", "{\"0\":\"a\",\"1\":\"b\",\"1\":\"c\"}", MOE_E_FORMAT, "id2label has \"1\""},
        {"", "id2label", "{\"0\":\"a\",\"1\":\"b\",\"99999999999\":\"c\"}", MOE_E_FORMAT, "id2label has"},
        {"", "id2label", "{\"0\":\"a\",\"1\":2,\"2\":\"c\"}", MOE_E_FORMAT, "id2label has \"1\""},
        {"", "label2id", "{\"a\":1}", MOE_E_FORMAT,
         "label2id gives \"a\" the id 1, which id2label calls \"b\""},
        {"", "label2id", "{\"a\":-1}", MOE_E_FORMAT, "label2id gives \"a\" the id -1"},
        {"", "label2id", "[0]", MOE_E_FORMAT, "label2id"},
        {"", "problem_type", "\"regression\"", MOE_E_UNSUPPORTED,
         "problem_type is \"regression\" with 3 labels, expected 1"},
        {"", "problem_type", "\"ranking\"", MOE_E_UNSUPPORTED, "problem_type is \"ranking\""},
    };
    expect_refused(cases, sizeof cases / sizeof *cases);
}

static void a_wrong_moefication_object_is_refused(void **state)
{
    (void)state;
    const char *m = "moefication";
    const bad_value cases[] = {
        {"", m, "7", MOE_E_FORMAT, "moefication is not an object"},
        {m, "format_version", NULL, MOE_E_FORMAT, "format_version is nothing"},
        {m, "format_version", "2", MOE_E_UNSUPPORTED, "moefication.format_version is 2, expected 1"},
        {m, "expert_size", "16", MOE_E_UNSUPPORTED, "moefication.expert_size is 16, expected 32"},
        {m, "n_experts", "4", MOE_E_UNSUPPORTED, "moefication.n_experts is 4, expected 3"},
        {m, "dtype", "\"int4\"", MOE_E_UNSUPPORTED, "moefication.dtype is \"int4\", expected \"f32\""},
        {m, "split", "\"A b\"", MOE_E_FORMAT, "moefication: split is \"A b\""},
        {m, "split", NULL, MOE_E_FORMAT, "moefication: split is \"\""},
        {m, "router", NULL, MOE_E_FORMAT, "moefication.router is missing"},
        {"router", "kind", "\"\"", MOE_E_FORMAT, "kind is \"\""},
        {"router", "linears", "3", MOE_E_FORMAT, "linears is 3"},
        {"router", "width", NULL, MOE_E_FORMAT, "width is nothing"},
        {"router", "width", "1000000", MOE_E_FORMAT, "width is 1000000"},
        {"router", "normalize", "\"yes\"", MOE_E_FORMAT, "normalize is \"yes\""},
        {m, "layers", NULL, MOE_E_FORMAT, "moefication.layers is missing"},
        {m, "layers", "[2]", MOE_E_FORMAT, "moefication.layers has 2 after -1"},
        {m, "layers", "[1,0]", MOE_E_FORMAT, "moefication.layers has 0 after 1"},
        {m, "layers", "[1,1]", MOE_E_FORMAT, "moefication.layers has 1 after 1"},
        {m, "layers", "[0.5]", MOE_E_FORMAT, "moefication.layers has 0.5"},
        {m, "ratio_table", NULL, MOE_E_FORMAT, "ratio_table has 0 rows"},
        {m, "ratio_table", "[]", MOE_E_FORMAT, "ratio_table has 0 rows"},
        {m, "ratio_table", "[3]", MOE_E_FORMAT, "ratio_table[0].ratio is -1"},
        {m, "ratio_table", "[{\"ratio\":0,\"experts\":[3,3]}]", MOE_E_FORMAT, "ratio is 0, expected"},
        {m, "ratio_table", "[{\"ratio\":1.5,\"experts\":[3,3]}]", MOE_E_FORMAT, "ratio is 1.5"},
        {m, "ratio_table", "[{\"ratio\":null,\"experts\":[3,3]}]", MOE_E_FORMAT, "ratio is -1"},
        {m, "ratio_table", "[{\"ratio\":0.5,\"experts\":[3,3]}]", MOE_E_FORMAT,
         "ratio_table ends at ratio 0.5, expected 1"},
        {m, "ratio_table", "[{\"ratio\":1,\"experts\":[3,2]}]", MOE_E_FORMAT,
         "ratio_table[0].experts[1] is 2, expected a whole number in [3, 3]"},
        {m, "ratio_table", "[{\"ratio\":1,\"experts\":[3]}]", MOE_E_FORMAT, "experts has 1 counts"},
        {m, "ratio_table", "[{\"ratio\":1,\"experts\":[3,3,3]}]", MOE_E_FORMAT, "experts has 3 counts"},
        {m, "ratio_table", "[{\"ratio\":0.5,\"experts\":[2,1]},{\"ratio\":1,\"experts\":[3,3]}]",
         MOE_E_FORMAT, "experts[0] is 2, expected a whole number in [3, 3]"}, /* layer 0 is dense */
        {m, "ratio_table", "[{\"ratio\":0.5,\"experts\":[3,0]},{\"ratio\":1,\"experts\":[3,3]}]",
         MOE_E_FORMAT, "experts[1] is 0, expected a whole number in [1, 3]"},
        {m, "ratio_table", "[{\"ratio\":0.5,\"experts\":[3,4]},{\"ratio\":1,\"experts\":[3,3]}]",
         MOE_E_FORMAT, "experts[1] is 4"},
        {m, "ratio_table", "[{\"ratio\":0.5,\"experts\":[3,1.5]},{\"ratio\":1,\"experts\":[3,3]}]",
         MOE_E_FORMAT, "experts[1] is 1.5"},
        {m, "ratio_table",
         "[{\"ratio\":0.5,\"experts\":[3,2]},{\"ratio\":0.5,\"experts\":[3,2]},"
         "{\"ratio\":1,\"experts\":[3,3]}]", MOE_E_FORMAT, "ratio_table[1].ratio is 0.5"},
        {m, "ratio_table",
         "[{\"ratio\":0.5,\"experts\":[3,2]},{\"ratio\":0.6,\"experts\":[3,1]},"
         "{\"ratio\":1,\"experts\":[3,3]}]", MOE_E_FORMAT,
         "ratio_table[1].experts[1] is 1, expected a whole number in [2, 3]"},
        {m, "fidelity", "{}", MOE_E_FORMAT, "fidelity is not an array"},
        {m, "fidelity", "[{\"kl\":1}]", MOE_E_FORMAT, "fidelity[0].ratio is -1"},
        {m, "fidelity", "[{\"ratio\":0.5,\"kl\":1e999}]", MOE_E_FORMAT, "fidelity[0].kl is not a finite"},
        {m, "fidelity", "[{\"ratio\":0.5,\"kl\":\"x\"}]", MOE_E_FORMAT, "fidelity[0].kl is not a finite"},
        {m, "provenance", "[]", MOE_E_FORMAT, "provenance is not an object"},
    };
    expect_refused(cases, sizeof cases / sizeof *cases);
}

static void a_config_that_is_no_object_or_no_file_is_refused(void **state)
{
    (void)state;
    model_config c;
    moe_error err = {0};
    assert_int_equal(config_parse("f", "[]", 2, &c, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "f: not a JSON object");
    assert_int_equal(config_parse("f", "{", 1, &c, &err), MOE_E_FORMAT);
    assert_int_equal(config_read("no/such/dir", &c, &err), MOE_E_IO);
    assert_string_equal(err.message,
                        "no/such/dir/config.json: cannot open: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoders_are_read_by_their_own_keys),
        cmocka_unit_test(positions_behind_the_last_are_refused),
        cmocka_unit_test(a_config_is_read_with_its_defaults),
        cmocka_unit_test(tasks_follow_problem_type_and_labels),
        cmocka_unit_test(activations_have_one_name_each),
        cmocka_unit_test(wrong_sizes_and_features_are_refused),
        cmocka_unit_test(wrong_labels_are_refused),
        cmocka_unit_test(a_wrong_moefication_object_is_refused),
        cmocka_unit_test(thresholds_are_read_and_may_be_the_default),
        cmocka_unit_test(wrong_thresholds_are_refused),
        cmocka_unit_test(mean_experts_are_read_and_may_be_the_default),
        cmocka_unit_test(wrong_mean_experts_are_refused),
        cmocka_unit_test(fidelity_ascends_within_a_policy),
        cmocka_unit_test(a_config_that_is_no_object_or_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
