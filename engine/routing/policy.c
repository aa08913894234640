/* policy.c: the names of selection policies, and a model's default. */
#include <string.h>

#include "engine/moe.h"

const char *moe_policy_name(moe_policy p)
{
    switch (p) {
    case MOE_POLICY_MODEL: return "model";
    case MOE_POLICY_TOPK: return "topk";
    case MOE_POLICY_THRESHOLD: return "threshold";
    }
    return "";
}

bool moe_policy_find(const char *name, moe_policy *out)
{
    for (moe_policy p = MOE_POLICY_TOPK; p <= MOE_POLICY_THRESHOLD; p++)
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
    return p == MOE_POLICY_THRESHOLD ? MOE_POLICY_THRESHOLD : MOE_POLICY_TOPK;
}
