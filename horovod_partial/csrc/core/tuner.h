// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_TUNER_H
#define HOROVOD_PARTIAL_CORE_TUNER_H

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "rank_set.h"

namespace horovod_partial {

// Policy auto: rounds start as under first:K, and K follows the ranks' steps.
//
//   a) With each submission, the application says how long its step took: from
//      getting a round to this submission. The step travels in the next
//      exchange, in kStepBits of its own for each rank: no message more.
//   b) The first rank keeps the newest steps of all ranks. Every few rounds it
//      asks (Tuner::Ask) which K is worth the most, and Evaluate, a pure
//      function that takes milliseconds, answers, on whatever thread.
//   c) The answer is announced in kVerdictBits of the next exchange, and holds
//      from the round that this exchange is about: all ranks read the same
//      exchange, so all change at the same round.
//
// K begins with all ranks. Ranks that are excused are not waited for, whatever
// K is.

constexpr int kStepBits = 10;
constexpr int kVerdictBits = 48;

// A step's seconds in kStepBits, to about 1 %, from a microsecond to three
// hours; 0 stands for no step.
uint32_t EncodeStep(double seconds);
double DecodeStep(uint32_t code);

// Which K to take, and why.
struct Verdict {
  int k = 0; // 0: as it is
  // Its score, in units of the present K's.
  double gain = 1;
  // Rounds, of gradients on average.
  double staleness = 0;

  uint64_t Encode() const; // kVerdictBits; 0 only when k is 0
  static Verdict Decode(uint64_t bits);
};

// A change of K that all ranks made.
struct Change {
  int64_t round; // the first with the new K
  int before;
  int k;
  double gain;
  double staleness;

  // "1.31 times the gradients per second, counting 0.38 rounds of staleness"
  std::string Why() const;
};

// What Evaluate is to answer: plain data.
struct Question {
  struct Step {
    int64_t round; // that was next when it was heard of
    double seconds;
  };
  // The newest steps of each rank that still takes part, oldest first; each
  // rank has one at least.
  std::vector<std::vector<Step>> steps;
  int k = 1;                // the present one
  double round_seconds = 0; // from a round's start to its result
  int64_t staleness_bound = 8;
  double staleness_cost = 0.7;
  uint64_t seed = 0;
};

// Replays the ranks' steps, drawn anew, under first:K for every K (or, of more
// than 16 ranks, a selection), and takes the K of the highest score (see
// ReplayResult::Score), unless it is hardly higher than the present K's: then k
// is 0. Of Ks that are as good as equal it takes the largest. More than 64
// ranks are represented by 64 of them, so that it takes a bounded time.
Verdict Evaluate(const Question& question);

// The score of every K from 1 to the number of ranks, as Evaluate sees it.
std::vector<double> Scores(const Question& question);

// One rank's part in policy auto for one group. Belongs to the thread that its
// group belongs to.
class Tuner {
public:
  Tuner(int rank, int size, int64_t staleness_bound, double staleness_cost);

  int k() const { return k_; }
  const std::vector<Change>& changes() const { return changes_; }

  // The application's step, with its submission; not above 0: not known.
  void NoteStep(double seconds);
  // How long a round took from its start to its result.
  void NoteRound(double seconds);

  // What this rank says in the exchange: EncodeStep of the oldest step that it
  // has not said, and (the first rank) Verdict::Encode.
  uint32_t StepToSay() const { return unsaid_.empty() ? 0 : unsaid_.front(); }
  uint64_t VerdictToSay() const { return verdict_.Encode(); }
  // What the exchange gave, before `round` is decided. `gone`: ranks that will
  // not submit again.
  void Hear(const std::vector<uint32_t>& steps, uint64_t verdict,
            int64_t round, const RankSet& gone);

  // First rank: a question that is due. Answer it, sooner or later; until then
  // there is no other.
  std::unique_ptr<Question> Ask();
  void Answer(const Verdict& verdict);

private:
  const int rank_;
  const int size_;
  const int64_t staleness_bound_;
  const double staleness_cost_;
  int k_;
  std::vector<Change> changes_;
  std::deque<uint32_t> unsaid_;
  Verdict verdict_;

  // On the first rank.
  std::vector<std::deque<Question::Step>> steps_;
  std::vector<double> round_seconds_; // the newest, in a ring
  size_t rounds_noted_ = 0;
  RankSet gone_;
  int64_t round_ = 0;
  int64_t next_ask_ = 0;
  int64_t asked_ = 0;
  bool asking_ = false;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_TUNER_H
