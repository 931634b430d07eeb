// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "wire.h"

#include <condition_variable>
#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "application.h"
#include "horovod/common/controller.h"
#include "horovod_partial/csrc/core/group.h"
#include "horovod_partial/csrc/core/wire.h"
#include "horovod_partial/csrc/glue/application.h"
#include "horovod_partial/csrc/glue/coordinator.h"

namespace {

namespace hvd = horovod::common;
using namespace horovod_partial;
using glue::Application;
using glue::Coordinator;
using Random = std::mt19937_64;

constexpr int kRanks = 3;
constexpr int kCycles = 24;
constexpr size_t kMostBytes = 1 << 20; // of a group, of a message

// Where the threads that play ranks meet. One meeting may be damaged: either what
// a rank says, so that all ranks hear the same, or what a rank hears.
class Network {
public:
  enum Kind { kAnd, kOr, kBroadcast, kNone };

  Network(uint64_t seed, bool damages) : random_(seed) {
    // Most meetings are kAnd, but most can go wrong in a kOr: in lengths and
    // announcements, which come first.
    static const Kind kinds[] = {kAnd, kOr, kOr, kOr, kBroadcast};
    damaged_kind_ = damages ? kinds[random_() % 5] : kNone;
    static const int likely[] = {kCycles, 6, 6, 1};
    damaged_meeting_ = random_() % likely[damaged_kind_];
    damaged_rank_ = random_() % kRanks;
    damaged_says_ = random_() % 2 == 0;
  }

  // Combines all ranks' bytes, in the same order on each.
  void Meet(int rank, Kind kind, int root, std::string& bytes) {
    if (bytes.size() > kMostBytes) {
      // As if it had been damaged on its way: combining it takes long.
      throw std::runtime_error("a large message");
    }
    std::unique_lock<std::mutex> lock(mutex_);
    const bool damaged = kind == damaged_kind_ && rank == damaged_rank_ &&
                         met_[rank][kind]++ == damaged_meeting_;
    if (damaged && damaged_says_) {
      Damage(bytes, random_);
    }
    if (arrived_ == 0) {
      kind_ = kind;
      root_ = root;
      combined_ = bytes;
    } else if (kind != kind_ || root != root_ ||
               bytes.size() != combined_.size()) {
      // Damage has led ranks to different places; a transport notices that.
      Break();
      throw std::runtime_error("a message of the wrong size");
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) {
        combined_[i] = kind == kAnd  ? combined_[i] & bytes[i]
                       : kind == kOr ? combined_[i] | bytes[i]
                       : rank == root ? bytes[i]
                                      : combined_[i];
      }
    }
    const uint64_t meeting = meeting_;
    if (++arrived_ == kRanks) {
      result_ = combined_;
      arrived_ = 0;
      ++meeting_;
      all_here_.notify_all();
    }
    all_here_.wait(lock, [&] { return broken_ || meeting_ != meeting; });
    if (meeting_ == meeting) {
      throw std::runtime_error("a connection was closed");
    }
    bytes = result_;
    if (damaged && !damaged_says_) {
      Damage(bytes, random_);
    }
  }

  // A rank is gone: nobody can meet any longer.
  void Leave() {
    std::lock_guard<std::mutex> guard(mutex_);
    Break();
  }

private:
  void Break() {
    broken_ = true;
    all_here_.notify_all();
  }

  Random random_;
  Kind damaged_kind_;
  int damaged_meeting_;
  int damaged_rank_;
  bool damaged_says_;

  std::mutex mutex_;
  std::condition_variable all_here_;
  std::map<int, std::map<Kind, int>> met_;
  Kind kind_;
  int root_;
  std::string combined_;
  std::string result_;
  int arrived_ = 0;
  uint64_t meeting_ = 0;
  bool broken_ = false;
};

// What Horovod's controllers refer to; nothing of it is used.
struct Surroundings {
  hvd::ResponseCache response_cache;
  hvd::TensorQueue tensor_queue;
  hvd::Timeline timeline;
  hvd::ParameterManager parameter_manager;
  hvd::GroupTable group_table;
  hvd::TimelineController timeline_controller;

  static Surroundings& Get() {
    static Surroundings surroundings; // one for all: the timeline is large
    return surroundings;
  }
};

class Controller : public hvd::Controller {
public:
  Controller(Network& network, int rank, Surroundings& s = Surroundings::Get())
      : hvd::Controller(s.response_cache, s.tensor_queue, s.timeline,
                        s.parameter_manager, s.group_table,
                        s.timeline_controller),
        network_(network) {
    rank_ = rank;
    size_ = kRanks;
  }

  void CrossRankBitwiseAnd(std::vector<long long>& words, int count) override {
    Combine(words, count, Network::kAnd);
  }
  void CrossRankBitwiseOr(std::vector<long long>& words, int count) override {
    Combine(words, count, Network::kOr);
  }
  void Bcast(void* buffer, size_t size, int root,
             hvd::Communicator) override {
    std::string bytes(static_cast<char*>(buffer), size);
    network_.Meet(rank_, Network::kBroadcast, root, bytes);
    if (rank_ != root) {
      std::memcpy(buffer, bytes.data(), size);
    }
  }

  int GetTypeSize(hvd::DataType) override { std::abort(); }
  void AlltoallGetRecvSplits(const std::vector<int32_t>&,
                             std::vector<int32_t>&) override {
    std::abort();
  }
  void Barrier(hvd::Communicator) override { std::abort(); }
  void Allgather2Ints(std::array<int, 2>, std::vector<int>&) override {
    std::abort();
  }

protected:
  void DoInitialization() override { std::abort(); }
  void RecvReadyTensors(std::vector<std::string>&,
                        std::vector<hvd::RequestList>&) override {
    std::abort();
  }
  void SendReadyTensors(hvd::RequestList&) override { std::abort(); }
  void SendFinalTensors(hvd::ResponseList&) override { std::abort(); }
  void RecvFinalTensors(hvd::ResponseList&) override { std::abort(); }

private:
  void Combine(std::vector<long long>& words, int count, Network::Kind kind) {
    CHECK(count == static_cast<int>(words.size()));
    std::string bytes(reinterpret_cast<char*>(words.data()),
                      count * sizeof(long long));
    network_.Meet(rank_, kind, 0, bytes);
    std::memcpy(words.data(), bytes.data(), bytes.size());
  }

  Network& network_;
};

// Most of what this makes of a group, no rank can mean.
void Distort(GroupSpec& spec, Random& random) {
  static const int64_t dims[] = {-1, 1ll << 31, 1ll << 40, INT64_MAX};
  switch (random() % 8) {
  case 0:
  case 1:
    spec.tensors[0].shape.assign(1 + random() % 2, dims[random() % 4]);
    return;
  case 2:
    spec.policy.kind = static_cast<PolicyKind>(random() % 256);
    return;
  case 3:
    spec.policy.k = static_cast<int>(random());
    return;
  case 4:
    spec.staleness_bound = static_cast<int64_t>(random()) >> random() % 64;
    return;
  case 5:
    spec.catch_up = static_cast<CatchUp>(random() % 256);
    return;
  case 6:
    spec.tensors[0].dtype = static_cast<DType>(random() % 256);
    return;
  case 7:
    spec.policy.staleness_cost = std::ldexp(random() - 1e9, random() % 2000);
    return;
  }
}

// What cannot be is an error, whichever part of a group it is.
void CheckRefusals() {
  GroupSpec good;
  good.name = "good";
  good.tensors.push_back({"tensor", DType::kFloat32, {2}});
  GroupSpec::Parse(good.Serialize());
  const std::function<void(GroupSpec&)> mistakes[] = {
      [](GroupSpec& spec) { spec.name = ""; },
      [](GroupSpec& spec) { spec.op = static_cast<ReduceOp>(2); },
      [](GroupSpec& spec) { spec.policy.kind = static_cast<PolicyKind>(6); },
      [](GroupSpec& spec) { spec.policy.staleness_cost = -1; },
      [](GroupSpec& spec) { spec.policy.k = 0; },
      [](GroupSpec& spec) { spec.staleness_bound = 0; },
      [](GroupSpec& spec) { spec.catch_up = static_cast<CatchUp>(3); },
      [](GroupSpec& spec) { spec.resync_every = -1; },
      [](GroupSpec& spec) { spec.healing = static_cast<Healing>(3); },
      [](GroupSpec& spec) { spec.tensors.clear(); },
      [](GroupSpec& spec) { spec.tensors[0].dtype = static_cast<DType>(4); },
      [](GroupSpec& spec) { spec.tensors[0].shape = {-1}; },
      [](GroupSpec& spec) { spec.tensors[0].shape = {1ll << 40, 1ll << 40}; }};
  for (const auto& mistake : mistakes) {
    GroupSpec spec = good;
    mistake(spec);
    bool refused = false;
    try {
      GroupSpec::Parse(spec.Serialize());
    } catch (const std::exception&) {
      refused = true;
    }
    CHECK(refused);
  }
}

// One rank of a job: submits to two groups, flushes, compares and heals, in
// steps that the seed draws. The `liar`, if there is one, says in some cycle
// what no rank of ours would, in the right form, and leaves; the others may
// have joined, and go along with whatever group it announces.
class Rank {
public:
  Rank(Network& network, int rank, uint64_t seed, int liar)
      : network_(network), controller_(network, rank), random_(seed + rank),
        gradient_(16, 1.0),
        lie_(rank == liar ? random_() % 6 : kCycles) {
    Random shared(seed);
    joined_ = shared() % 4 != 0 && liar >= 0 && liar != rank;
    for (auto& group : groups_) {
      group.spec = Draw(&group == groups_ ? "a" : "b", shared);
    }
  }

  void Run() {
    try {
      for (int cycle = 0; cycle < kCycles; ++cycle) {
        for (size_t g = 0; g < 2 && !joined_; ++g) {
          Act(groups_[g]);
        }
        if (cycle == lie_) {
          Lie();
          break;
        }
        Cycle();
      }
    } catch (const std::bad_alloc&) {
      CHECK(!"an allocation that damage made too large");
    } catch (const std::length_error&) {
      CHECK(!"an allocation that damage made too large");
    } catch (const std::exception&) {
      ++failures;
    }
    network_.Leave();
    coordinator_.Finalize("over");
    for (Ticket ticket : tickets_) {
      Application::Get().Close(ticket);
    }
  }

  int failures = 0;
  int heals = 0;

private:
  struct Use {
    std::shared_ptr<const GroupSpec> spec;
    Request::Type type = Request::kSubmit;
    Ticket ticket = 0;
  };

  static std::shared_ptr<const GroupSpec> Draw(const std::string& name,
                                               Random& random) {
    auto spec = std::make_shared<GroupSpec>();
    spec->name = name;
    const DType dtypes[] = {DType::kFloat32, DType::kFloat64,
                            DType::kBFloat16};
    for (int t = 1 + random() % 3; t > 0; --t) {
      spec->tensors.push_back({"tensor." + std::to_string(t),
                               dtypes[random() % 3],
                               {1, static_cast<int64_t>(1 + random() % 8)}});
    }
    const char* policies[] = {"solo", "majority", "quorum:2", "first:2",
                              "full", "auto"};
    spec->policy = ParsePolicy(policies[random() % 6]);
    spec->seed = random();
    spec->staleness_bound = 1 + random() % 2;
    spec->catch_up = static_cast<CatchUp>(random() % 3);
    spec->resync_every = random() % 3;
    spec->healing = static_cast<Healing>(random() % 3);
    return spec;
  }

  // What the application does between two cycles.
  void Act(Use& group) {
    auto& application = Application::Get();
    if (group.ticket != 0) {
      for (Ticket ticket : application.Unanswered(&coordinator_)) {
        if (ticket == group.ticket) {
          return;
        }
      }
      const Completion& answer = application.Answer(group.ticket);
      const bool heals = answer.heal && !answer.again;
      if (heals && group.type == Request::kFlush) {
        group.type = Request::kSync;
      } else if (heals) {
        group.type = answer.root == controller_.GetRank() ? Request::kOffer
                                                          : Request::kReceive;
      } else if (group.type == Request::kFlush && answer.again) {
      } else {
        heals_done(group.type);
        group.type = random_() % 3 == 0 ? Request::kFlush : Request::kSubmit;
      }
      group.ticket = 0;
    }
    const bool heals = group.type != Request::kSubmit;
    if (!heals && random_() % 3 == 0) {
      return; // it computes
    }
    Request request;
    request.type = group.type;
    if (request.type == Request::kSubmit) {
      request.tensors.assign(group.spec->tensors.size(), gradient_.data());
    }
    request.hash = {random_() % 2, 0};
    if (request.type == Request::kOffer) {
      request.replica = std::make_shared<const std::string>(100, 'r');
    }
    group.ticket = coordinator_.Ask(group.spec->name, group.spec,
                                    std::move(request));
    tickets_.push_back(group.ticket);
  }

  void heals_done(Request::Type type) {
    heals += type == Request::kOffer || type == Request::kReceive;
  }

  void Cycle() {
    auto& bits = coordinator_.Snapshot(controller_, joined_, queue_);
    controller_.CrossRankBitwiseAnd(bits, static_cast<int>(bits.size()));
    coordinator_.Resolve(Surroundings::Get().timeline);
    coordinator_.Execute(
        controller_, 0,
        [](hvd::TensorTableEntry& entry, const hvd::Response&) {
          std::memcpy(const_cast<void*>(entry.output->data()),
                      entry.tensor->data(), entry.tensor->size());
        });
  }

  std::string Announcement() {
    WireWriter out;
    out.Number<uint8_t>(random_() % 2); // gone
    out.Number<uint8_t>(random_() % 2); // elsewhere
    out.Number<uint32_t>(1);
    out.String(random_() % 2 == 0 ? "a" : "nothing");
    const uint32_t names = 1 + random_() % 3;
    out.Number(names);
    for (uint32_t i = 0; i < names; ++i) {
      const char* drawn[] = {"a", "b", "new", "newer"};
      const std::string name = drawn[random_() % 4];
      GroupSpec spec = *groups_[random_() % 2].spec;
      spec.name = random_() % 8 == 0 ? "" : name;
      Distort(spec, random_);
      out.String(name);
      out.Number<uint8_t>(random_() % 2); // submits
      out.String(random_() % 3 == 0 ? "" : spec.Serialize());
    }
    const uint32_t left = random_() % 3; // operations
    out.Number(left);
    for (uint32_t i = 0; i < left; ++i) {
      out.String("left");
    }
    return out.Take();
  }

  void Lie() {
    auto& bits = coordinator_.Snapshot(controller_, false, queue_);
    bits[0] &= ~1ll; // it announces something
    controller_.CrossRankBitwiseAnd(bits, static_cast<int>(bits.size()));
    const std::string message = Announcement();
    const int rank = controller_.GetRank();
    std::vector<long long> lengths(kRanks, 0);
    lengths[rank] = static_cast<long long>(message.size());
    controller_.CrossRankBitwiseOr(lengths, kRanks);
    size_t words = 0, mine = 0;
    for (int r = 0; r < kRanks; ++r) {
      mine = r == rank ? words : mine;
      words += (lengths[r] + 7) / 8;
    }
    std::vector<long long> buffer(words, 0);
    std::memcpy(&buffer[mine], message.data(), message.size());
    controller_.CrossRankBitwiseOr(buffer, static_cast<int>(words));
  }

  Network& network_;
  Controller controller_;
  Coordinator coordinator_{kMostBytes};
  const hvd::TensorQueue queue_; // empty
  Random random_;
  std::vector<double> gradient_;
  const int lie_; // the cycle
  bool joined_;
  Use groups_[2];
  std::vector<Ticket> tickets_;
};

} // namespace

void Damage(std::string& bytes, std::mt19937_64& random) {
  if (bytes.empty()) {
    return;
  }
  const size_t at = random() % bytes.size();
  switch (random() % 5) {
  case 0: // a bit or some
    for (int flips = 1 + random() % 3; flips > 0; --flips) {
      bytes[random() % bytes.size()] ^= 1 << random() % 8;
    }
    return;
  case 1: // what lengths and counts are made of
  case 2: {
    static const int64_t numbers[] = {
        -1,        0,          1,          0x7f,       0xff,
        0x10000,   1 << 24,    1 << 28,    0x7fffffff, 0x80000000,
        1ll << 31, 1ll << 33,  1ll << 40,  1ll << 59,  INT64_MAX,
        INT64_MIN, 0xffffffff, 0xfffffff8, 1 << 20,    4};
    const int64_t number = numbers[random() % 20];
    const size_t aligned = random() % 2 == 0 ? at / 8 * 8 : at;
    const size_t width = random() % 2 == 0 ? 4 : 8;
    std::memcpy(&bytes[aligned], &number,
                std::min(width, bytes.size() - aligned));
    return;
  }
  case 3: // cut off
    std::fill(bytes.begin() + at, bytes.end(), '\0');
    return;
  case 4: // noise
    for (size_t i = at; i < bytes.size() && i < at + 16; ++i) {
      bytes[i] = static_cast<char>(random());
    }
    return;
  }
}

void FuzzWire(uint64_t seed, int count) {
  CheckRefusals();
  int failures = 0;
  int heals = 0;
  for (int i = 0; i < count; ++i) {
    const bool lies = i % 2 == 1;
    Network network(seed + i, /*damages=*/!lies);
    std::vector<std::unique_ptr<Rank>> ranks;
    std::vector<std::thread> threads;
    for (int r = 0; r < kRanks; ++r) {
      ranks.push_back(std::make_unique<Rank>(
          network, r, (seed + i) * 1000, lies ? i / 2 % kRanks : -1));
    }
    for (auto& rank : ranks) {
      threads.emplace_back(&Rank::Run, rank.get());
    }
    for (auto& thread : threads) {
      thread.join();
    }
    for (auto& rank : ranks) {
      failures += rank->failures;
      heals += rank->heals;
    }
  }
  // Damage that nobody notices, or jobs that get nowhere, test nothing.
  std::cout << "wire: seed " << seed << ", " << count << " jobs, " << failures
            << " failures, " << heals << " heals" << std::endl;
  CHECK(failures > count / 4 && heals > 0);
}
