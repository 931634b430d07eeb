// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_SIM_SIMULATION_H
#define HOROVOD_PARTIAL_SIM_SIMULATION_H

#include <cstdint>
#include <string>
#include <vector>

#include "../core/spec.h"

namespace horovod_partial {
namespace sim {

// One step of a simulated application. `what` is the group, or the name of the
// operation or barrier.
struct Op {
  enum Type {
    kCompute, // `amount` turns
    kSubmit,  // asynchronous; what is left of it, after parts
    kPart,    // the next part of a submission, not the last one
    kWait,    // synchronize(handle) of the group's submission
    kPoll,    // poll(handle) until it says yes
    kSync,    // a synchronous operation of Horovod's; it may fail once a rank
              // has ended without it
    kStart,   // one that the program does not wait for
    kAddSet,  // add_process_set, which likewise goes past the operations' queue
    kBarrier, // one that Horovod cannot see, inside excused()
    kFlush,
    kLeave,   // flush(), which an error ends before replicas are compared
    kDrop,    // kWait, which an error ends before a heal
    kJoin, // with a mistake, if it names a group: see kMistake
    kRetire, // the optimizer goes away, and is not made anew
    kMistake, // asks for the group with other settings than all other ranks
  };
  Type type;
  std::string what;
  int amount = 1;
};

// "submit:A", "part:A", "wait:A", "drop:A", "poll:A", "sync:S", "start:S", "set:P", "barrier:B",
// "flush:A", "leave:A", "join", "join:A" (which makes a mistake first, and does not wait for the answer),
// "retire:A", "mistake:A", "compute:3", and "step:A" for submit and wait. Throws
// std::invalid_argument.
std::vector<Op> ParseProgram(const std::vector<std::string>& words);

struct GroupSetting {
  std::string name;
  std::string policy = "majority";
  int staleness_bound = 8;
  std::string catch_up = "replay";
  int resync_every = 0;
  Healing healing = Healing::kInRounds;
  int parts = 1; // up to 3, in which submissions may come
};

// Mistakes to plant, outside the core: the checks must find each of them.
enum class Fault {
  kNone,
  kLoseStale,     // a stale contribution does not reach the others
  kDoubleCount,   // a stale contribution arrives twice
  kMissingExcuse, // waits of the application are not reported
  kIgnoreBound,   // the core is told of no bound
  kNoFollowUp,    // the host sleeps although a cycle is due at once
  kLateChange,    // one rank hears of auto's K an exchange later
  kNoCutShort,    // a rank that waits in the middle of a step holds up its round
  kForgetLeft,    // an ended rank does not say what it left outstanding
};

struct Setting {
  int size = 2;
  uint64_t seed = 0; // of the interleaving and of the values submitted
  std::vector<GroupSetting> groups;
  std::vector<std::vector<Op>> programs; // one per rank
  Fault fault = Fault::kNone;
  // Cycles only when they are wanted, instead of one after the other.
  bool events = false;
};

struct Outcome {
  // Empty when all invariants held; else what was violated, and when.
  std::string violation;
  int64_t cycles = 0;
  int64_t rounds = 0;
  int64_t flushes = 0;
  int64_t late = 0;
  int64_t merged = 0;
  int64_t heals = 0;
  int64_t changes = 0; // of K, under auto
  int64_t in_parts = 0; // rounds that did not go as a whole
  int64_t cut_short = 0;
  // Operations that failed because a rank had ended: "2:S", on rank 2.
  std::vector<std::string> lost;
  int64_t left = 0; // times that ranks left a heal
  std::vector<int64_t> questions; // of policy auto, by group
  // Of all rounds that are no flushes, over all groups.
  double mean_active = 0;
};

// Runs P members of one process set, with one application each, in one thread
// and under a simulated network, in an order that the seed draws: applications
// go on between any two steps of any rank's background thread. Checks the
// invariants 1 to 5, 8 and 9 of the specification all along and at the end.
// Under policy auto, K changes at random, a few times.
Outcome Run(const Setting& setting);

// A random setting: 1 to max_size ranks, one to three groups of any policy,
// and programs that end under every interleaving if the rules are right.
Setting RandomSetting(uint64_t seed, int max_size);

// What RandomSetting drew, for people.
std::string Describe(const Setting& setting);

} // namespace sim
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_SIM_SIMULATION_H
