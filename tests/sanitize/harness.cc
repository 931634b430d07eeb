// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

// Runs Horovod's common library with partial collectives through everything
// that a job does, for a sanitizer to watch. No framework: application.h. Every
// rank of a job runs the same command:
//
//   harness all STEPS TIMELINE
//                       every scene below in three lives of Horovod: with cycles by
//                       the clock, with cycles by events, and with cycles by events,
//                       no response cache and a timeline in that file
//   harness fault HOW   trains until a rank is gone. HOW is "killed" (somebody
//                       else does it), "exit" (the last rank exits in the
//                       middle) or "shutdown" (it shuts down without an end)
//   harness wire SEED COUNT
//                       one process: random damage to what ranks tell each other
//   harness broken HOW  does what a sanitizer has to report: "race", "overflow",
//                       "leak" or "shift"
//
// Steps are counted, who is late is scripted by barriers, and gradients are
// whole numbers, so that results are checked exactly.

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "application.h"
#include "horovod/common/operations.h"
#include "wire.h"

extern "C" {
void horovod_partial_excused(int enter);
void horovod_partial_end(int ended);
int horovod_partial_drained();
void horovod_partial_left(char* buffer, int64_t length);
}

namespace {

using namespace application;
namespace hvd = horovod::common;

int rank, size;
// Whether, in this life of Horovod, steps come in parts where a scene may have
// it either way.
bool parts = false;

// With other processes: none is left when Horovod is down, or a rank could wait
// for one that will not send any more.
int Connections() {
  int sockets = 0;
  for (const auto& file :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone; // what lists the directory
    const auto what = std::filesystem::read_symlink(file, gone).string();
    sockets += what.rfind("socket:", 0) == 0;
  }
  return sockets;
}

double Gradient() { return 1 << rank; }

// A processor kept busy for a while, so that ranks drift apart.
void Compute() {
  static thread_local std::mt19937 random(rank);
  volatile unsigned steps = random() % 200000;
  while (steps > 0) {
    steps = steps - 1;
  }
}

// Part after part, with time in between, in which rounds begin.
void StepByStep(Replica& replica, bool in_parts, bool polls = false) {
  for (int i = 0; i < 2 && in_parts; ++i) {
    replica.HandIn(Gradient());
    Compute();
  }
  replica.Step(Gradient(), polls);
}

// What holds on every rank after a flush.
void CheckReplica(const Replica& replica, bool conserves = true) {
  const double digest = replica.digest() >> 16;
  CHECK(Sum(digest, "digest") == size * digest);
  const double submitted = Sum(replica.submitted(), "submitted");
  CHECK(!conserves || replica.weight() == -submitted);
  CHECK(!conserves || replica.later_weight() == replica.weight());
  CHECK(replica.Stat("holds") == 0 && replica.Stat("pending") == 0);
}

// Whether the ranks refuse a step of a group, because they disagree on it.
bool Refuses(const std::string& name, const Settings& settings) {
  Replica odd(name, settings);
  try {
    odd.Step(Gradient());
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// Two groups that are registered in opposite order, then some on which the
// ranks disagree: all are told.
void Registration() {
  Replica a("registration.a"), b("registration.b", {.parts = true});
  const bool even = rank % 2 == 0;
  (even ? a : b).Step(Gradient());
  (even ? b : a).Step(Gradient());
  a.Flush();
  b.Flush();
  CheckReplica(a);
  CheckReplica(b);

  CHECK(Refuses("registration.odd", {.staleness_bound = rank == 1 ? 3 : 4}));
  CHECK(Refuses("registration.parts", {.parts = rank == 1}));
}

// All ranks as fast as they can, with threads that ask for statistics, save
// checkpoints, use another group, and run synchronous operations meanwhile.
void Rounds(int steps) {
  const char* policies[] = {"solo", "majority", "quorum:2", "first:2", "full"};
  const char* catch_ups[] = {"replay", "sum", "latest"};
  for (int p = 0; p < 5; ++p) {
    const std::string name = std::string("rounds.") + policies[p];
    const std::string catch_up = catch_ups[p % 3];
    const bool in_parts = parts == (p % 2 == 0);
    Replica replica(name, {.policy = policies[p],
                           .staleness_bound = 2 + p,
                           .catch_up = catch_up,
                           .resync_every = p == 1 ? 5 : 0,
                           .parts = in_parts});
    std::atomic<bool> over{false};
    std::thread reader([&] {
      while (!over) {
        replica.Save();
        CHECK(replica.Stat("wait_seconds") >= 0);
        std::this_thread::yield();
      }
    });
    std::thread beside([&] {
      Replica other(name + ".beside",
                    {.policy = "first:2", .parts = !in_parts});
      for (int i = 0; i < steps; ++i) {
        StepByStep(other, !in_parts, /*polls=*/i % 2 == 0);
      }
      other.Flush();
    });
    std::thread synchronous([&] {
      for (int i = 0; i < steps; ++i) {
        CHECK(Sum(Gradient(), "sum") == (1 << size) - 1);
      }
    });
    for (int i = 0; i < steps; ++i) {
      Compute();
      StepByStep(replica, in_parts, /*polls=*/i % 5 == 0);
    }
    beside.join();
    synchronous.join();
    replica.Flush();
    over = true;
    reader.join();
    CheckReplica(replica, catch_up != "latest");
  }
}

// The last rank waits elsewhere while the others have more rounds than the
// staleness bound: it is passive, its pending rounds merge, its next submission
// is late, and its replica heals.
void LateSubmissions() {
  Replica replica("late", {.policy = "first:3",
                           .staleness_bound = 2,
                           .parts = parts});
  const bool last = rank == size - 1;
  for (int i = 0; i < 5 && !last; ++i) {
    replica.Step(Gradient());
  }
  Barrier();
  if (last) {
    CHECK(replica.Stat("null") == 5);
    CHECK(replica.Stat("merged") == 3);
  }
  for (int i = 0; i < 3; ++i) {
    replica.Step(Gradient());
  }
  CHECK(!last || replica.Stat("late") >= 1);
  replica.Flush();
  CHECK(replica.Stat("heals") >= 1);
  CheckReplica(replica);
}

// The first rank waits elsewhere in the middle of a step with which a round has
// begun: the others go on without its later parts, which come with another
// round. Then the last rank flushes in the middle of a step.
void CutShort() {
  Replica replica("cut short", {.policy = "solo",
                                .staleness_bound = 100,
                                .parts = true});
  replica.Step(Gradient());
  replica.Flush();
  const double before = replica.Stat("parts");
  Barrier();
  auto until_begun = [&replica, before] {
    while (replica.Stat("parts") == before) {
      std::this_thread::yield();
    }
  };
  if (rank == 0) {
    replica.HandIn(Gradient());
    until_begun();
    Sum(1, "in the middle");
    replica.Step(Gradient());
  } else {
    until_begun();
    replica.Step(Gradient());
    replica.Step(Gradient());
    Sum(1, "in the middle");
  }
  CHECK(replica.Stat("cut_short") == (rank == 0 ? 1 : 0));
  replica.Flush();
  CheckReplica(replica);

  if (rank == size - 1) {
    replica.HandIn(Gradient());
  }
  replica.Flush();
  replica.Step(Gradient());
  replica.Flush();
  CheckReplica(replica);
}

// A group fails in the middle of a round, which rank 1 holds up, while ranks
// wait for the round's end to save what there is.
void FailsInTheMiddle() {
  Settings settings = {.policy = "solo", .parts = true};
  Replica replica("middle", settings), other("beside", {.policy = "solo"});
  other.Step(Gradient());
  replica.Step(Gradient());
  replica.Flush();
  const double before = replica.Stat("parts");
  Barrier();
  if (rank == 1) {
    replica.HandIn(Gradient());
  }
  while (replica.Stat("parts") == before) {
    std::this_thread::yield();
  }
  if (rank == 2) {
    for (int i = 0; i < 5; ++i) {
      other.Step(Gradient()); // meanwhile, the others begin to wait
    }
    settings.staleness_bound += 1;
    CHECK(Refuses("middle", settings));
  }
  while (replica.Stat("parts") > 0) {
    rank == 1 ? std::this_thread::yield() : void(replica.Save());
  }
  Barrier();
}

// Rounds until one heals: a round that all ranks were ready for at once, before
// an exchange had told them that a heal is due, goes without.
void Heal() {
  Replica replica("heal",
                  {.policy = "full", .resync_every = 1, .parts = parts});
  for (int i = 0; i < 1000 && replica.Stat("heals") == 0; ++i) {
    replica.Step(Gradient());
  }
  CHECK(replica.Stat("heals") == 1);
  replica.Flush();
  CheckReplica(replica);
}

// Ranks with uneven numbers of steps. One joins in the middle of a step.
void Joins() {
  Replica replica("join", {.policy = "solo",
                           .staleness_bound = 2,
                           .parts = parts});
  for (int i = 0; i < 3 * (rank + 1); ++i) {
    replica.Step(Gradient());
  }
  if (rank == size - 1) {
    // A flush while the others are in join().
    replica.Flush();
  }
  if (rank == 1 && parts) {
    replica.HandIn(Gradient());
  }
  Replica::JoinServing({&replica});
  if (rank == 1 && parts) {
    replica.Step(Gradient());
  }
  replica.Flush();
  CheckReplica(replica);
}

void Excused() {
  Replica replica("excused", {.policy = "quorum:4", .parts = parts});
  if (rank == 1) {
    horovod_partial_excused(1);
    Barrier();
    horovod_partial_excused(0);
  } else {
    for (int i = 0; i < 3; ++i) {
      replica.Step(Gradient());
    }
    Barrier();
  }
  replica.Flush();
  CheckReplica(replica);
}

// A checkpoint's send buffer, and a group that ends on all ranks, on one in the
// middle of a step, and begins anew.
void Checkpoints() {
  for (int life = 0; life < 2; ++life) {
    Replica replica("checkpoint", {.policy = "solo",
                                   .seed = 7u + life,
                                   .parts = parts});
    replica.Step(Gradient());
    replica.Restore(3 * Gradient());
    replica.Flush();
    CheckReplica(replica);
    if (rank == 1 && parts) {
      replica.HandIn(Gradient());
    }
    replica.Retire();
  }
}

void ProcessSets() {
  std::vector<int> ranks = {0, 2, 3};
  const int set = hvd::horovod_add_process_set(ranks.data(), 3);
  CHECK(set > 0);
  if (rank != 1) {
    Replica replica("set", {.policy = "solo",
                            .process_set = set,
                            .parts = parts});
    for (int i = 0; i < 3; ++i) {
      replica.Step(Gradient());
    }
    replica.Flush();
    CHECK(replica.weight() == -3 * (1 + 4 + 8));
  }
  CHECK(hvd::horovod_remove_process_set(set) == set);
}

// Process sets go away while other threads use them: what those ask is refused,
// or answered.
void RemovedProcessSets(int times) {
  auto until_gone = [](const std::function<void()>& act) {
    return [act] {
      try {
        while (true) {
          act();
        }
      } catch (const Gone&) {
      } catch (const std::invalid_argument&) { // there is no such process set
      }
    };
  };
  for (int i = 0; i < times; ++i) {
    std::vector<int> ranks = {0, 2, 3};
    const int set = hvd::horovod_add_process_set(ranks.data(), 3);
    CHECK(set > 0);
    Replica replica("removed", {.policy = "solo",
                                .process_set = set,
                                .parts = parts});
    std::vector<std::thread> threads;
    if (rank != 1) {
      replica.Step(Gradient());
      threads.emplace_back(until_gone([&] { replica.Step(Gradient()); }));
      threads.emplace_back(until_gone([&] { replica.Save(); }));
      threads.emplace_back(until_gone([&] { replica.Stat("rounds"); }));
    }
    CHECK(hvd::horovod_remove_process_set(set) == set);
    for (auto& thread : threads) {
      thread.join();
    }
  }
}

// Ranks end one after the other, the first one in the middle of a step; those
// that go on are not disturbed.
void End() {
  Replica replica("end", {.policy = "first:2", .parts = parts});
  replica.Step(Gradient());
  Barrier();
  for (int i = 0; i < 4 * rank; ++i) {
    replica.Step(Gradient());
  }
  if (rank < size - 1) {
    application::BeginSum(1, "left"); // it does not wait for it
    if (rank == 1) {
      application::BeginSum(1, "left by one");
    }
    if (rank == 0 && parts) {
      replica.HandIn(Gradient());
    }
  } else {
    // A rank that has ended will not take part in anything else any more.
    bool gone = false;
    try {
      Sum(1, "alone");
    } catch (const Gone&) {
      gone = true;
    }
    CHECK(gone);
    const std::vector<int> ranks = {0, 1};
    CHECK(hvd::horovod_add_process_set(ranks.data(), 2) < 0);
    CHECK(Sum(1, "left") == size);
    application::Join([](const std::function<bool()>& joined) {
      while (!joined()) {
        std::this_thread::yield();
      }
    });
  }
  horovod_partial_end(1);
  while (!horovod_partial_drained()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  hvd::horovod_shutdown();
  horovod_partial_end(0);
  char left[64];
  horovod_partial_left(left, sizeof(left));
}

void Begin() {
  CHECK(hvd::horovod_init(nullptr, 0, nullptr, nullptr, 0));
  rank = hvd::horovod_rank();
  size = hvd::horovod_size();
}

int All(int steps, const std::string& timeline) {
  const int connections = Connections();
  const std::vector<std::pair<const char*, std::string>> lives[] = {
      {{"HOROVOD_EVENT_DRIVEN", "0"}},
      {{"HOROVOD_EVENT_DRIVEN", "1"}},
      {{"HOROVOD_CACHE_CAPACITY", "0"},
       {"HOROVOD_TIMELINE", timeline},
       {"HOROVOD_TIMELINE_MARK_CYCLES", "1"}}};
  for (const auto& life : lives) {
    for (const auto& setting : life) {
      setenv(setting.first, setting.second.c_str(), 1);
    }
    Begin();
    CHECK(size == 4);
    parts = !parts;
    const std::pair<const char*, std::function<void()>> scenes[] = {
        {"registration", Registration},
        {"rounds", [steps] { Rounds(steps); }},
        {"late submissions", LateSubmissions},
        {"cut short", CutShort},
        {"fails in the middle", FailsInTheMiddle},
        {"heal", Heal},
        {"joins", Joins},
        {"excused", Excused},
        {"checkpoints", Checkpoints},
        {"process sets", ProcessSets},
        {"removed process sets", [steps] { RemovedProcessSets(2 * steps); }},
        {"end", End}};
    for (const auto& scene : scenes) {
      scene.second();
      if (rank == 0) {
        std::cout << scene.first << ": fine" << std::endl;
      }
    }
    CHECK(Connections() == connections);
  }
  return 0;
}

int Fault(const std::string& how) {
  const int connections = Connections();
  Begin();
  const bool victim = rank == size - 1 && how != "killed";
  const bool in_parts = how != "shutdown";
  Replica replica("fault", {.policy = "majority",
                            .staleness_bound = 2,
                            .parts = in_parts});
  std::atomic<bool> over{false};
  auto until_gone = [&over](const std::function<void()>& act) {
    return [&over, act] {
      try {
        while (!over) {
          act();
        }
      } catch (const Gone&) {
      }
    };
  };
  std::thread reader(until_gone([&replica] { replica.Save(); }));
  std::thread synchronous(until_gone([] { Sum(1, "sum"); }));
  bool gone = false;
  try {
    for (int step = 0; step < 20 || !victim; ++step) {
      Compute();
      StepByStep(replica, in_parts);
      if (step == 20) {
        std::cout << "rank " << rank << " did step 20" << std::endl;
      }
    }
  } catch (const Gone&) {
    gone = true;
  }
  if (victim && how == "exit") {
    replica.HandIn(Gradient());
    std::_Exit(3);
  }
  hvd::horovod_shutdown();
  over = true;
  reader.join();
  synchronous.join();
  CHECK(gone != victim);
  CHECK(Connections() == connections);
  std::cout << "rank " << rank << " noticed" << std::endl;
  return 0;
}

int Broken(const std::string& how) {
  std::vector<int> numbers(3);
  volatile int four = 4;
  if (how == "race") {
    std::thread other([&numbers] { ++numbers[0]; });
    ++numbers[0];
    other.join();
  } else if (how == "overflow") {
    numbers.data()[0] = numbers.data()[four];
  } else if (how == "leak") {
    numbers.data()[0] = *new int(four);
  } else if (how == "shift") {
    numbers[0] = 1 << (10 * four);
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  // As in Python: Gloo writes to connections that a dead rank may have closed.
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 3 && args[0] == "all") {
    return All(std::stoi(args[1]), args[2]);
  }
  if (args.size() == 2 && args[0] == "fault") {
    return Fault(args[1]);
  }
  if (args.size() == 3 && args[0] == "wire") {
    const int count = std::stoi(args[2]);
    FuzzWire(std::stoull(args[1]), count);
    FuzzFrames(std::stoull(args[1]), count);
    return 0;
  }
  if (args.size() == 2 && args[0] == "broken") {
    return Broken(args[1]);
  }
  std::cerr << "harness: see harness.cc" << std::endl;
  return 2;
}
