/* logits.h: the logits of many sequences in one array, whatever the task: a row of labels
 * to each sequence, or two columns, start and end, to each token. */
#ifndef CONVERT_LOGITS_H
#define CONVERT_LOGITS_H

#include "engine/moe.h"

/* Where sequence seq's begin; of n_seqs, how many there are. */
size_t logits_at(const moe_model_info *info, const int32_t *cu_seqlens, int seq);

/* How far logits q of a sequence of n_tokens are from p: answer_divergence, or the mean
 * of the divergences of where an answer starts and where it ends. */
double logits_divergence(const moe_model_info *info, const float *p, const float *q,
                         int n_tokens);
/* Whether both say the same label, or start and end. */
bool logits_agree(const moe_model_info *info, const float *p, const float *q, int n_tokens);
/* Mean absolute difference of a regression's or of all start and end logits. */
double logits_difference(const moe_model_info *info, const float *p, const float *q,
                         int n_tokens);

#endif
