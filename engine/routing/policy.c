/* policy.c: the names of selection policies, a model's default and what it can follow. */
#include <string.h>

#include "engine/moe.h"

const char *moe_policy_name(moe_policy p)
{
    switch (p) {
    case MOE_POLICY_MODEL: return "model";
    case MOE_POLICY_TOPK: return "topk";
    case MOE_POLICY_THRESHOLD: return "threshold";
    case MOE_POLICY_SEQUENCE: return "sequence";
    }
    return "";
}

bool moe_policy_find(const char *name, moe_policy *out)
{
    for (moe_policy p = MOE_POLICY_TOPK; p <= MOE_POLICY_SEQUENCE; p++)
        if (strcmp(name, moe_policy_name(p)) == 0) {
            *out = p;
            return true;
        }
    return false;
}

moe_policy moe_policy_resolve(const moe_model_info *info, moe_policy p)
{
    if (p == MOE_POLICY_MODEL)
        p = info->policy;
    return p == MOE_POLICY_MODEL ? MOE_POLICY_TOPK : p;
}

const char *moe_policy_lacks(const moe_model_info *info, moe_policy p)
{
    if (p == MOE_POLICY_THRESHOLD && !info->has_thresholds)
        return "thresholds";
    if (p == MOE_POLICY_SEQUENCE && !info->has_mean_experts)
        return "mean_experts";
    return NULL;
}
