/* groups.js - which curves stand together and what they say. A curve is {title, what, series, ...}: the
 * metrics drawn in one picture; those that a run does not have are left out, and so is an empty curve.
 * Metrics named nowhere here get a curve of their own in the last group. */
'use strict';

const GROUPS = [
  ['Reward and KL', [
    { title: 'Score', what: 'the judge\'s mean score of the responses', series: ['objective/raw_scores', 'eval/scores'] },
    { title: 'KL to the reference', what: 'nats per response; the price of the score', series: ['objective/kl', 'eval/kl'], zero: true },
    { title: 'Score against KL', path: true },
    { title: 'Reward as trained on', what: 'normalised score minus the price of KL', series: ['objective/rlhf_reward', 'objective/scores'] },
    { title: 'Price of KL', what: 'coefficient and what it cost', series: ['objective/kl_coef', 'objective/non_score_reward'] },
  ]],
  ['Loss', [
    { title: 'Loss', series: ['loss', 'eval/loss'] },
    { title: 'Accuracy', what: 'share of pairs ordered as labelled', series: ['accuracy', 'eval/accuracy'] },
    { title: 'Token accuracy', what: 'share of tokens that would be the first choice', series: ['mean_token_accuracy'] },
    { title: 'Margin', what: 'chosen minus rejected', series: ['margin'] },
    { title: 'Rewards of answers', series: ['mean_reward', 'min_reward', 'max_reward', 'eval/mean_reward'] },
    { title: 'Policy loss', series: ['loss/policy_avg'] },
    { title: 'Value loss', series: ['loss/value_avg'] },
    { title: 'KL as a loss', what: 'to the reference, per token', series: ['loss/kl_avg'], zero: true },
    { title: 'Loss on other text', series: ['loss/ptx'] },
  ]],
  ['Preference', [
    { title: 'Margin', what: 'implicit reward, chosen minus rejected', series: ['rewards/margins', 'eval/rewards/margins'] },
    { title: 'Accuracy', what: 'share of pairs with a positive margin', series: ['rewards/accuracies', 'eval/rewards/accuracies'] },
    { title: 'Implicit rewards', what: 'both falling while the margin grows is a warning', series: ['rewards/chosen', 'rewards/rejected', 'eval/rewards/chosen', 'eval/rewards/rejected'] },
    { title: 'Log-probabilities of answers', series: ['logps/chosen', 'logps/rejected', 'eval/logps/chosen', 'eval/logps/rejected'] },
  ]],
  ['Held-out evaluation', [
    { title: 'Gold reward', what: 'the true reward, where it can be computed', series: ['eval/gold'] },
    { title: 'Win rate', what: 'against the policy before training, ties half', series: ['eval/win_rate'] },
  ]],
  ['Policy update', [
    { title: 'Clip fraction', what: 'share of tokens whose ratio was clipped', series: ['policy/clipfrac_avg'], zero: true },
    { title: 'KL of the update', what: 'between the rollout\'s policy and the updated one', series: ['policy/approxkl_avg'] },
    { title: 'Ratio', what: 'mean probability ratio; 1 before the first update', series: ['val/ratio'] },
    { title: 'Largest ratio', series: ['val/ratio_max'] },
    { title: 'Variance of the ratio', series: ['val/ratio_var'] },
    { title: 'Sampler against training', what: 'largest difference of log-probabilities; 0 on a CPU', series: ['rollout/logp_drift'] },
  ]],
  ['Entropy', [
    { title: 'Entropy per token', what: 'a fall to a quarter is a collapse', series: ['policy/entropy_avg', 'entropy', 'eval/entropy'], zero: true },
    { title: 'Entropy per response', what: 'minus the log-probability of the samples', series: ['objective/entropy'] },
  ]],
  ['Value function', [
    { title: 'Explained variance', what: '1 is perfect, below 0 worse than a constant', series: ['critic/vf_explained_var'] },
    { title: 'Clipped values', series: ['val/clipfrac_avg'], zero: true },
  ]],
  ['Lengths', [
    { title: 'Length of responses', what: 'tokens: mean, shortest, longest', series: ['response_length/mean', 'response_length/min', 'response_length/max', 'eval/response_length'] },
    { title: 'Responses cut off', what: 'share without an end token', series: ['rollout/truncated_rate'], zero: true },
    { title: 'Ended by themselves', what: 'responses per step', series: ['val/num_eos_tokens'] },
  ]],
  ['Optimizer', [
    { title: 'Gradient norm', series: ['grad_norm', 'actor/grad_norm', 'critic/grad_norm'] },
    { title: 'Learning rate', series: ['learning_rate'] },
  ]],
  ['Time', [
    { title: 'Where a step\'s time goes', what: 'seconds, one on another', stack: true, series: ['timing_s/rollout', 'timing_s/judge', 'timing_s/improve'] },
    { title: 'Tokens per second', series: ['perf/tokens_per_second'] },
  ]],
];

/* Counters that are axes, and sums of others that are drawn already. */
const NOT_DRAWN = new Set(['step', 'wall_time', 'tokens', 'samples', 'num_tokens', 'epoch', 'timing_s/step', 'optimizer_steps', 'eval/gold_stderr']);

function curvesOf(runs) {
  const there = new Set(runs.flatMap(run => Object.keys(run.columns).filter(name => has(run, name))));
  const drawn = new Set(NOT_DRAWN), groups = [];
  for (const [title, curves] of GROUPS) {
    const found = [];
    for (const curve of curves) {
      if (curve.path) {
        if (there.has('objective/kl') && there.has('objective/raw_scores')) found.push(curve);
        continue;
      }
      const series = curve.series.filter(name => there.has(name) && !drawn.has(name));
      series.forEach(name => drawn.add(name));
      if (series.length) found.push(Object.assign({}, curve, { series }));
    }
    if (found.length) groups.push([title, found]);
  }
  const others = [...there].filter(name => !drawn.has(name)).sort();
  if (others.length) groups.push(['Other metrics', others.map(name => ({ title: name, series: [name] }))]);
  return groups;
}

/* The figures of a run's end that stand on top, with what people call them. */
const FIGURES = {
  gold_before: 'gold before', gold_after: 'gold after', score_before: 'score before', score_after: 'score after',
  win_rate_vs_sft: 'win rate', kl_final: 'KL per answer', response_length: 'tokens per answer',
  first_ratio_max_deviation: 'first ratio off by', first_loss: 'first loss', accuracy: 'accuracy',
  accuracy_longer_wins: '“longer wins”', accuracy_ceiling: 'accuracy ceiling', val_accuracy: 'held-out accuracy',
  val_loss: 'held-out loss', loss_first: 'first loss', loss_last: 'last loss', ties: 'ties', steps: 'steps',
  tokens_per_second: 'tokens/s', seconds: 'seconds',
};

function figuresOf(run) {
  const out = [];
  for (const [key, label] of Object.entries(FIGURES)) {
    const value = run.result && run.result[key];
    if (isNumber(value)) out.push([label, key === 'seconds' ? duration(value) : format(value)]);
  }
  if (out.length) return out;
  const now = [['step', format(lastOf(run, 'step'))]];
  for (const [name, label] of [['loss', 'loss'], ['accuracy', 'accuracy'], ['rewards/margins', 'margin'],
    ['objective/raw_scores', 'score'], ['objective/kl', 'KL'], ['response_length/mean', 'length'],
    ['perf/tokens_per_second', 'tokens/s']])
    if (has(run, name)) now.push([label, format(lastOf(run, name))]);
  return now;
}
