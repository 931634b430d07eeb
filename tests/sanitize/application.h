// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

// What a framework's binding is to Horovod and to the glue, with plain memory
// in place of tensors: horovod_partial/groups.py and horovod/torch, in small.

#ifndef HOROVOD_PARTIAL_TESTS_APPLICATION_H
#define HOROVOD_PARTIAL_TESTS_APPLICATION_H

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// Ends the process when something is not as it has to be.
#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " #condition              \
                << " does not hold" << std::endl;                              \
      std::_Exit(1);                                                           \
    }                                                                          \
  } while (false)

namespace application {

// Horovod has shut down, or another rank is gone: HorovodInternalError.
struct Gone : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Synchronous operations. They block, and throw Gone.
double Sum(double value, const std::string& name);
void Barrier();
// Blocks until all ranks have joined, while `serve(joined)` runs.
void Join(const std::function<void(const std::function<bool()>&)>& serve);

struct Settings {
  std::string policy = "majority";
  int64_t staleness_bound = 8;
  std::string catch_up = "replay";
  int64_t resync_every = 0;
  uint64_t seed = 0;
  int process_set = 0;
  // Steps come in parts, as with bucket_cap_mb.
  bool parts = false;
};

// A partial group, and the replica that its rounds update: each element is the
// negative sum of the results.
class Replica {
public:
  explicit Replica(std::string name, Settings settings = {});
  ~Replica();
  Replica(const Replica&) = delete;

  // One training step, whose gradient is `value` in each element. Throws
  // std::invalid_argument when ranks disagree, and Gone. `polls`: asks again and
  // again instead of blocking.
  void Step(double value, bool polls = false);
  // Hands in the next part of a step, which Step() with the same value ends. All
  // of them are in memory of the replica's, which lives until they are answered.
  int64_t HandIn(double value);
  void Flush();
  // The send buffer and the pending rounds, as a checkpoint has them, in bytes.
  // Any thread may ask.
  std::string Save() const;
  // Goes with the next flush: a send buffer with `value` in each element.
  void Restore(double value);
  // hvd.join()
  static void JoinServing(const std::vector<Replica*>& replicas);
  // The application is done with the group.
  void Retire();

  double weight() const { return exact_.front(); }
  // The same number, of another part.
  double later_weight() const { return single_.back(); }
  // The number of rounds applied.
  int64_t round() const { return round_; }
  double submitted() const { return submitted_; }
  uint64_t digest() const;
  // A number of Coordinator::kStatNames. Any thread may ask.
  double Stat(const std::string& name) const;

private:
  int64_t Ask(int what, const std::vector<const void*>& data = {},
              const uint64_t* digest = nullptr,
              const std::string* payload = nullptr, int first = 0);
  // Waits for an answer, applies its rounds and closes it; true: ask again.
  bool Take(int64_t ticket, bool heals_by_check, std::string* replica = nullptr);
  void Apply(int64_t ticket, int index);
  void Compare();
  void Transfer(int root);

  std::string name_;
  Settings settings_;
  int64_t definition_;
  std::vector<double> exact_, exact_gradient_;
  std::vector<float> single_, single_gradient_;
  std::vector<uint16_t> half_, half_gradient_, bfloat_, bfloat_gradient_;
  int first_ = 0; // the tensors that have been handed in
  int64_t round_ = 0;
  double submitted_ = 0;
  std::string restored_;
};

} // namespace application

#endif // HOROVOD_PARTIAL_TESTS_APPLICATION_H
