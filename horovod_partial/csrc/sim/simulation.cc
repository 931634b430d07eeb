// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "simulation.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>

#include "../core/member.h"
#include "task.h"

namespace horovod_partial {
namespace sim {
namespace {

constexpr int kTensors = 3; // of two elements each
constexpr int kElements = 2 * kTensors;
constexpr int64_t kMostCycles = 200000;
// Cycles in which nothing at all happens, after which nothing ever will: the
// longest chain of "as of the last exchange" is shorter.
constexpr int kIdleCycles = 6;

struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Values = std::array<double, kElements>;

// The tensors in values, from the given one on.
std::vector<const void*> TensorsOf(const Values& values, int first = 0) {
  std::vector<const void*> tensors;
  for (int t = first; t < kTensors; ++t) {
    tensors.push_back(&values[2 * t]);
  }
  return tensors;
}

// Tensors per part.
std::vector<int32_t> PartsOf(int parts) {
  std::vector<int32_t> sizes(parts, 1);
  sizes.front() += kTensors - parts;
  return parts > 1 ? sizes : std::vector<int32_t>();
}

// Reproducible on every machine, which std::uniform_int_distribution is not.
class Random {
public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int Below(int limit) { return static_cast<int>(engine_() % limit); }
  bool Chance(int percent) { return Below(100) < percent; }

private:
  std::mt19937_64 engine_;
};

Values ValuesOf(const Buffers& buffers) {
  Values values;
  std::vector<void*> tensors;
  for (int t = 0; t < kTensors; ++t) {
    tensors.push_back(&values[2 * t]);
  }
  buffers.CopyOut(tensors);
  return values;
}

uint64_t Scramble(uint64_t state, const Values& values) {
  for (double value : values) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    state = (state ^ bits) * 0x9e3779b97f4a7c15ull;
    state ^= state >> 29;
  }
  return state;
}

// Whether a program waits, or ends, in the middle of a submission.
bool Interrupts(const std::vector<Op>& program, const std::string& group) {
  bool incomplete = false;
  for (const Op& op : program) {
    if (op.what == group && (op.type == Op::kPart || op.type == Op::kSubmit)) {
      incomplete = op.type == Op::kPart;
    } else if (incomplete && op.type != Op::kCompute && op.type != Op::kPart &&
               op.type != Op::kSubmit && op.type != Op::kStart) {
      return true;
    }
  }
  return incomplete;
}

// Whether a program ever submits an operation, or adds a process set.
bool Submits(const std::vector<Op>& program, const std::string& operation) {
  return std::any_of(program.begin(), program.end(), [&](const Op& op) {
    return op.what == operation &&
           (op.type == Op::kSync || op.type == Op::kStart ||
            op.type == Op::kAddSet);
  });
}

// What has been executed in one group, as the network saw it.
struct GroupLog {
  GroupSetting setting;
  std::shared_ptr<const GroupSpec> spec;
  Values submitted{};
  std::vector<Values> results;  // per round
  bool under_way = false;       // the last one is not over
  // No rank waits in the middle of a submission.
  bool uninterrupted = true;
  std::vector<uint64_t> states; // replica after each flush, by round; 0: none
  int64_t flushes = 0;
  int64_t active_sum = 0;
};

class World;

// One rank: its member, which the simulated background thread drives, and its
// application.
class Rank {
public:
  Rank(World& world, int rank, int size, const std::vector<Op>& program)
      : world_(world), rank_(rank), member(rank, size), program_(program) {
    main_ = Main();
    resume_ = main_.handle();
  }

  bool Runnable() const { return !main_.done() && (!until_ || until_()); }
  bool Finished() const { return main_.done(); }
  void RunOnce() {
    until_ = nullptr;
    auto handle = resume_;
    handle.resume();
    main_.Rethrow();
  }

  // As the host does in each cycle: fails what cannot complete any more.
  void FailLost();
  void TakeSnapshot();
  // A look at what the application did; what it makes of a next cycle.
  Want Stir();
  void Deliver();
  // Where this rank says something of a group in the exchange.
  size_t BitOf(const Group& group, Say say) const;
  std::string Where() const { return where_; }

  // What the background thread knows.
  std::vector<uint64_t> words;
  std::set<std::string> sync_sent; // synchronous operations submitted
  std::set<std::string> set_sent;  // process sets added
  bool sync_news = false;          // since the last exchange
  bool host_news = false;          // what Horovod itself makes a cycle for
  Want told = Want::kNothing;      // to the others, since the last exchange
  bool joined = false;
  size_t next_action = 0;

  // What it tells the application.
  std::set<std::string> sync_done; // or failed
  std::set<std::string> set_done;
  bool join_done = false;

  std::map<std::string, int64_t> expected; // next round that has to be seen
  std::map<std::string, int64_t> at_snapshot; // pending rounds per group

private:
  struct Suspend {
    Rank& rank;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) { rank.resume_ = self; }
    void await_resume() const noexcept {}
  };

  // Goes on when `until` holds; a turn of computing without it.
  Suspend Until(std::function<bool()> until, std::string where) {
    until_ = std::move(until);
    where_ = std::move(where);
    return {*this};
  }

  Ticket Ask(const std::string& name, Request request,
             std::shared_ptr<const GroupSpec> spec = nullptr);
  void Submit(const std::string& name, bool all);
  bool Done(Ticket ticket) const { return answers_.count(ticket) != 0; }
  Task Await(Ticket ticket, bool blocked, std::string where);
  Task Main();
  Task Flush(std::string name, bool heals);
  Ticket AskMistaken(const std::string& name);
  Task HearOfMistake(std::string name, Ticket ticket);
  Task Join(std::string mistaken);
  Task Collect(std::string name, bool blocked, bool heals);
  Task Compare(std::string name, int64_t round);
  Task Transfer(std::string name, int root);
  void Apply(const std::string& name,
             const std::vector<std::shared_ptr<Round>>& rounds);

  World& world_;
  const int rank_;

public:
  Member member;

private:
  const std::vector<Op> program_;
  Task main_;
  std::coroutine_handle<> resume_;
  std::function<bool()> until_;
  std::string where_ = "starts";

  // Asked since the last snapshot.
  struct Asked {
    std::string name;
    Request request;
    std::shared_ptr<const GroupSpec> spec; // nullptr: the group's
  };
  std::vector<Asked> inbox_;
  std::vector<std::string> sync_inbox_;
  std::vector<std::string> set_inbox_;
  bool join_inbox_ = false;

  // What the application waits for.
  std::vector<AppState::Wait> waits_;
  bool elsewhere_ = false;
  bool ended_ = false;
  bool healed_ = false; // by the last transfer

  std::map<Ticket, Completion> answers_;
  std::map<std::string, Ticket> submission_;
  std::map<std::string, Values> gradient_;
  std::map<std::string, int> handed_in_; // tensors of it; 0: none or all
  std::map<std::string, uint64_t> state_;
  Ticket last_ticket_ = 0;
};

class World {
public:
  explicit World(const Setting& setting)
      : setting_(setting), random_(setting.seed * 2 + 1) {
    for (const auto& group : setting.groups) {
      GroupLog log;
      log.setting = group;
      GroupSpec spec;
      spec.name = group.name;
      for (int t = 0; t < kTensors; ++t) {
        spec.tensors.push_back({std::to_string(t), DType::kFloat64, {2}});
      }
      spec.parts = PartsOf(group.parts);
      spec.op = ReduceOp::kSum;
      spec.policy = ParsePolicy(group.policy);
      spec.seed = setting.seed;
      spec.staleness_bound = setting.fault == Fault::kIgnoreBound
                                 ? 1000000
                                 : group.staleness_bound;
      spec.catch_up = ParseCatchUp(group.catch_up);
      spec.resync_every = group.resync_every;
      spec.healing = group.healing;
      spec.Validate();
      // Over the wire and back, as ranks send it.
      log.spec =
          std::make_shared<const GroupSpec>(GroupSpec::Parse(spec.Serialize()));
      for (const auto& program : setting.programs) {
        log.uninterrupted = log.uninterrupted && !Interrupts(program, group.name);
      }
      logs.emplace(group.name, std::move(log));
    }
    for (int rank = 0; rank < setting.size; ++rank) {
      ranks_.push_back(std::make_unique<Rank>(*this, rank, setting.size,
                                              setting.programs.at(rank)));
    }
  }

  Outcome Run();

  // Answers questions of policy auto, one at a time, now and then by a new K.
  void Tune(Member& member) {
    if (asker_ && random_.Chance(10)) {
      Verdict verdict;
      if (changes_left_ > 0) {
        --changes_left_;
        verdict.k = 1 + random_.Below(size());
      }
      if (member.Find(asker_->spec().name) == asker_) {
        asker_->tuner()->Answer(verdict);
      }
      asker_.reset();
    }
    if (!asker_ && member.NextQuestion(&asker_)) {
      ++questions_[asker_->spec().name];
    }
  }

  void CheckLost(int rank, const std::string& operation);
  void CountLeft() { ++left_; }

  Fault fault() const { return setting_.fault; }
  int size() const { return setting_.size; }
  Values Gradient(int rank) {
    const auto random = static_cast<double>(1 + random_.Below(1000));
    Values values;
    for (int t = 0; t < kTensors; ++t) {
      values[2 * t] = random + t;
      // For at most 16 ranks, each with seven submissions in a round.
      values[2 * t + 1] = static_cast<double>(uint64_t{1} << (3 * rank));
    }
    return values;
  }

  std::map<std::string, GroupLog> logs;
  std::map<std::string, int> barriers; // arrivals

  [[noreturn]] void Fail(const std::string& what) const {
    throw Violation(what);
  }

private:
  enum Phase { kSnapshot, kResolve, kAnnounce, kRegister, kBegin, kFinish };

  void Step(int rank);
  void EndPhase();
  void Exchange();
  void DelayVerdicts();
  void CompleteSynchronous();
  void CompareActions();
  void Reduce();
  void CheckBound(const Action& action);
  void CheckEnd();
  bool AllDrained() const;
  void Sleep(const std::vector<int>& runnable, int eagerness);
  bool CycleIsDue() const;
  std::string Positions() const;

  const Setting setting_;
  Random random_;
  int changes_left_ = 4;
  std::shared_ptr<Group> asker_;
  std::map<std::string, int64_t> questions_;
  std::vector<std::string> lost_;
  int64_t left_ = 0;
  std::vector<uint64_t> delayed_words_;
  std::map<std::string, uint64_t> delayed_;
  std::vector<std::unique_ptr<Rank>> ranks_;

  Phase phase_ = kSnapshot;
  std::vector<bool> stepped_;
  bool wanted_ = false; // the next cycle, where they come by events
  bool happened_synchronously_ = false;
  bool happened_ = true; // anything in this cycle
  int idle_ = 0;
  int64_t cycle_ = 0;
  int64_t in_parts_ = 0; // rounds

  std::vector<uint64_t> words_;
  std::vector<std::string> messages_;
  std::vector<Buffers*> buffers_; // of the round under way
  std::vector<Hash> hashes_;
  std::shared_ptr<const std::string> replica_;
  std::set<std::string> sync_complete_;
  std::set<std::string> set_complete_;
  int joined_ = 0;
};

// ---------------------------------------------------------------- application

Ticket Rank::Ask(const std::string& name, Request request,
                 std::shared_ptr<const GroupSpec> spec) {
  request.ticket = ++last_ticket_;
  inbox_.push_back({name, request, std::move(spec)});
  return last_ticket_;
}

// Hands in the next part of a gradient, or all that is left of it.
void Rank::Submit(const std::string& name, bool all) {
  auto& log = world_.logs.at(name);
  int& first = handed_in_[name];
  if (first == 0) {
    gradient_[name] = world_.Gradient(rank_);
  }
  const Values& gradient = gradient_[name];
  Request request;
  request.tensors = TensorsOf(gradient, first);
  request.first = first;
  request.step_seconds = 1 + rank_;
  if (!all) {
    int count = 0;
    for (int32_t size : log.spec->parts) {
      count += size;
      if (count > first) {
        break;
      }
    }
    request.tensors.resize(count - first);
  }
  const int end = first + static_cast<int>(request.tensors.size());
  for (int e = 2 * first; e < 2 * end; ++e) {
    log.submitted[e] += gradient[e];
  }
  if (all) {
    first = 0;
    submission_[name] = Ask(name, request);
  } else {
    first = end;
    inbox_.push_back({name, request, nullptr});
  }
}

Task Rank::Await(Ticket ticket, bool blocked, std::string where) {
  waits_ = {{ticket, blocked}};
  co_await Until([this, ticket] { return Done(ticket); }, std::move(where));
  waits_.clear();
  const Completion& answer = answers_.at(ticket);
  if (answer.status != Completion::kOk) {
    world_.Fail("rank " + std::to_string(rank_) + " got the error '" +
                answer.message + "'");
  }
}

void Rank::Apply(const std::string& name,
                 const std::vector<std::shared_ptr<Round>>& rounds) {
  const GroupLog& log = world_.logs.at(name);
  for (const auto& round : rounds) {
    const int64_t first = round->index - round->count + 1;
    if (first != expected[name]) {
      world_.Fail("once: rank " + std::to_string(rank_) + " got rounds " +
                  std::to_string(first) + " to " +
                  std::to_string(round->index) + " of " + name +
                  " where round " + std::to_string(expected[name]) +
                  " comes next");
    }
    expected[name] = round->index + 1;
    if (log.under_way &&
        round->index + 1 == static_cast<int64_t>(log.results.size())) {
      world_.Fail("atomic: rank " + std::to_string(rank_) + " got round " +
                  std::to_string(round->index) + " of " + name +
                  " before it was over");
    }
    Values sum = log.results.at(round->index);
    if (log.spec->catch_up != CatchUp::kLatest) {
      for (int64_t i = first; i < round->index; ++i) {
        for (int e = 0; e < kElements; ++e) {
          sum[e] += log.results.at(i)[e];
        }
      }
    }
    const Values values = ValuesOf(*round->result);
    if (values != sum) {
      world_.Fail("agreement: rank " + std::to_string(rank_) +
                  " got another result for round " +
                  std::to_string(round->index) + " of " + name);
    }
    if (!round->empty) {
      state_[name] = Scramble(state_[name], values);
    }
  }
}

// Also when the root has left the heal.
Task Rank::Transfer(std::string name, int root) {
  Request request;
  const bool offers = root == rank_;
  request.type = offers ? Request::kOffer : Request::kReceive;
  if (offers) {
    request.replica = std::make_shared<const std::string>(
        reinterpret_cast<const char*>(&state_[name]), sizeof(uint64_t));
  }
  const Ticket ticket = Ask(name, request);
  co_await Await(ticket, true, "waits in a heal of " + name);
  const auto& replica = answers_.at(ticket).replica;
  healed_ = offers || replica;
  if (replica) {
    std::memcpy(&state_[name], replica->data(), sizeof(uint64_t));
  }
}

Task Rank::Compare(std::string name, int64_t round) {
  Request request;
  request.type = Request::kSync;
  request.hash = {state_[name], 0};
  const Ticket ticket = Ask(name, request);
  co_await Await(ticket, true, "waits in the check of a flush of " + name);
  const Completion answer = answers_.at(ticket);
  if (answer.differed) {
    world_.Fail("healed: replicas of " + name +
                " differ although no rank has drifted");
  }
  if (answer.heal) {
    co_await Transfer(name, answer.root);
    if (!healed_) {
      co_return;
    }
  }
  // Invariant 8, over all ranks that took part.
  auto& states = world_.logs.at(name).states;
  states.resize(std::max<size_t>(states.size(), round + 1));
  if (states[round] == 0) {
    states[round] = state_[name];
  } else if (states[round] != state_[name]) {
    world_.Fail("healed: rank " + std::to_string(rank_) +
                " differs after the flush of " + name);
  }
}

Task Rank::Collect(std::string name, bool blocked, bool heals) {
  const Ticket ticket = submission_.at(name);
  co_await Await(ticket, blocked,
                 (blocked ? "waits for a round of " : "polls ") + name);
  submission_.erase(name);
  const Completion answer = answers_.at(ticket);
  if (answer.rounds.empty()) {
    world_.Fail("a submission to " + name + " came back with no round");
  }
  Apply(name, answer.rounds);
  if (answer.heal && heals) {
    co_await Transfer(name, answer.root);
  } else if (answer.heal) {
    world_.CountLeft();
  }
}

Task Rank::Flush(std::string name, bool heals) {
  while (true) {
    Request request;
    request.type = Request::kFlush;
    const Ticket ticket = Ask(name, request);
    co_await Await(ticket, true, "waits in flush of " + name);
    const Completion answer = answers_.at(ticket);
    Apply(name, answer.rounds);
    if (!answer.again) {
      if (answer.heal && heals) {
        co_await Compare(name, answer.rounds.back()->index);
      } else if (answer.heal) {
        world_.CountLeft();
      }
      break;
    }
  }
}

Task Rank::Join(std::string mistaken) {
  const Ticket mistake = mistaken.empty() ? 0 : AskMistaken(mistaken);
  std::map<std::string, Ticket> tickets;
  auto listen = [&](const std::string& name) {
    Request request;
    request.type = Request::kListen;
    tickets[name] = Ask(name, request);
  };
  for (const auto& log : world_.logs) {
    if (log.second.spec->healing != Healing::kNever) {
      listen(log.first);
    }
  }
  join_inbox_ = true;
  while (true) {
    waits_.clear();
    for (const auto& entry : tickets) {
      waits_.push_back({entry.second, true});
    }
    auto answered = [this, &tickets] {
      return std::find_if(tickets.begin(), tickets.end(), [this](auto& entry) {
        return Done(entry.second);
      });
    };
    co_await Until(
        [this, &tickets, answered] {
          return join_done || answered() != tickets.end();
        },
        "waits in join");
    waits_.clear();
    auto entry = answered();
    if (entry == tickets.end()) {
      break;
    }
    const std::string name = entry->first;
    const Completion answer = answers_.at(entry->second);
    Apply(name, answer.rounds);
    co_await Until(nullptr, "applies rounds in join");
    if (!answer.again && answer.heal) {
      co_await Compare(name, answer.rounds.back()->index);
    }
    listen(name);
  }
  waits_.clear();
  join_done = false;
  for (auto& entry : tickets) {
    Request request;
    request.type = Request::kUnlisten;
    co_await Await(Ask(entry.first, request), true, "leaves join");
    const Completion answer = answers_.at(entry.second);
    Apply(entry.first, answer.rounds);
    if (!answer.again && answer.heal) {
      co_await Compare(entry.first, answer.rounds.back()->index);
    }
  }
  if (mistake != 0) {
    co_await HearOfMistake(mistaken, mistake);
  }
}

// Rank 0 alone asks for what the group will be.
Ticket Rank::AskMistaken(const std::string& name) {
  GroupSpec spec = *world_.logs.at(name).spec;
  spec.staleness_bound += rank_;
  gradient_[name] = Values{};
  Request request;
  request.type = rank_ % 2 == 0 ? Request::kSubmit : Request::kFlush;
  if (request.type == Request::kSubmit) {
    request.tensors = TensorsOf(gradient_[name]);
  }
  return Ask(name, request,
             std::make_shared<const GroupSpec>(std::move(spec)));
}

Task Rank::HearOfMistake(std::string name, Ticket ticket) {
  waits_ = {{ticket, true}};
  co_await Until([this, ticket] { return Done(ticket); },
                 "waits with a mistake in " + name);
  waits_.clear();
  if (answers_.at(ticket).status != Completion::kInvalid) {
    world_.Fail("mistake: rank " + std::to_string(rank_) +
                " did not hear that the settings of " + name + " differ");
  }
}

Task Rank::Main() {
  for (const Op& op : program_) {
    switch (op.type) {
    case Op::kCompute:
      for (int turn = 0; turn < op.amount; ++turn) {
        co_await Until(nullptr, "computes");
      }
      break;
    case Op::kSubmit:
      Submit(op.what, true);
      break;
    case Op::kPart:
      Submit(op.what, false);
      break;
    case Op::kWait:
    case Op::kDrop:
      co_await Collect(op.what, true, op.type == Op::kWait);
      break;
    case Op::kPoll:
      co_await Collect(op.what, false, true);
      break;
    case Op::kSync:
      sync_inbox_.push_back(op.what);
      elsewhere_ = true;
      co_await Until([this, &op] { return sync_done.count(op.what) != 0; },
                     "waits in the synchronous operation " + op.what);
      elsewhere_ = false;
      break;
    case Op::kStart:
      sync_inbox_.push_back(op.what);
      break;
    case Op::kAddSet:
      set_inbox_.push_back(op.what);
      elsewhere_ = true;
      co_await Until(
          [this, &op] {
            return set_done.count(op.what) != 0 || !member.ended().Empty();
          },
          "adds the process set " + op.what);
      elsewhere_ = false;
      if (set_done.count(op.what) == 0) {
        world_.CheckLost(rank_, op.what);
      }
      break;
    case Op::kBarrier:
      ++world_.barriers[op.what];
      elsewhere_ = true;
      co_await Until(
          [this, &op] { return world_.barriers[op.what] == world_.size(); },
          "waits in the barrier " + op.what);
      elsewhere_ = false;
      break;
    case Op::kFlush:
    case Op::kLeave:
      co_await Flush(op.what, op.type == Op::kFlush);
      break;
    case Op::kJoin:
      co_await Join(op.what);
      break;
    case Op::kMistake:
      co_await HearOfMistake(op.what, AskMistaken(op.what));
      break;
    case Op::kRetire: {
      Request request;
      request.type = Request::kRetire;
      Ask(op.what, request);
      break;
    }
    }
    co_await Until(nullptr, "goes on");
  }
  ended_ = true;
  where_ = "has ended";
}

// ------------------------------------------------- the rank's background thread

void Rank::FailLost() {
  sync_sent.insert(sync_inbox_.begin(), sync_inbox_.end());
  for (auto name = sync_sent.begin(); name != sync_sent.end();) {
    if (!member.Lost(*name)) {
      ++name;
      continue;
    }
    world_.CheckLost(rank_, *name);
    sync_done.insert(*name);
    name = sync_sent.erase(name);
  }
  sync_news = sync_news || !sync_inbox_.empty();
  sync_inbox_.clear();
}

void Rank::TakeSnapshot() {
  for (auto& asked : inbox_) {
    member.Ask(asked.name,
               asked.spec ? asked.spec : world_.logs.at(asked.name).spec,
               std::move(asked.request));
  }
  inbox_.clear();
  for (const auto& name : sync_inbox_) {
    sync_sent.insert(name);
  }
  sync_news = sync_news || !sync_inbox_.empty();
  sync_inbox_.clear();
  host_news = host_news || join_inbox_ || !set_inbox_.empty();
  set_sent.insert(set_inbox_.begin(), set_inbox_.end());
  set_inbox_.clear();
  joined = joined || join_inbox_;
  join_inbox_ = false;

  AppState app;
  app.joined = joined;
  app.over = ended_;
  app.quiet = sync_sent.empty() && !joined;
  if (ended_ && world_.fault() != Fault::kForgetLeft) {
    app.left = sync_sent;
  }
  if (world_.fault() != Fault::kMissingExcuse) {
    // The application may still be counted as waiting although its operation
    // is complete; the background thread knows better.
    app.elsewhere = elsewhere_ && (!until_ || !until_());
    app.waits = waits_;
  }
  if (rank_ == 0) {
    world_.Tune(member);
  }
  words = member.Snapshot(app);
  if (world_.fault() == Fault::kNoCutShort) {
    for (const auto& group : member.groups()) {
      if (group->holds_up()) {
        const size_t at = BitOf(*group, Say::kNext);
        words[at / 64] &= ~(uint64_t{1} << (at % 64));
      }
    }
  }
  at_snapshot.clear();
  for (const auto& group : member.groups()) {
    at_snapshot[group->spec().name] = group->pending();
  }
  Deliver();
}

size_t Rank::BitOf(const Group& wanted, Say say) const {
  const int size = member.size();
  size_t at = Member::HeadOf(size);
  for (const auto& group : member.groups()) {
    if (group.get() == &wanted) {
      break;
    }
    at += group->says() * size;
  }
  return at + static_cast<int>(say) * size + rank_;
}

Want Rank::Stir() {
  TakeSnapshot();
  told = host_news ? Want::kNow : member.Wants(sync_news);
  return told;
}

void Rank::Deliver() {
  for (auto& completion : member.Completed()) {
    const Ticket ticket = completion.ticket;
    if (!answers_.emplace(ticket, std::move(completion)).second) {
      world_.Fail("a request of rank " + std::to_string(rank_) +
                  " was answered twice");
    }
  }
  member.Completed().clear();
}

void World::Step(int rank) {
  Rank& self = *ranks_[rank];
  stepped_[rank] = true;
  switch (phase_) {
  case kSnapshot:
    self.FailLost();
    self.TakeSnapshot();
    break;
  case kResolve:
    self.member.Resolve(fault() == Fault::kLateChange && rank == size() - 1
                            ? delayed_words_
                            : words_);
    self.sync_news = self.host_news = false;
    self.told = Want::kNothing;
    self.next_action = 0;
    for (const auto& name : sync_complete_) {
      if (self.sync_sent.erase(name)) {
        self.sync_done.insert(name);
      }
    }
    for (const auto& name : set_complete_) {
      self.set_sent.erase(name);
      self.set_done.insert(name);
    }
    break;
  case kAnnounce:
    messages_[rank] = self.member.Announcements();
    break;
  case kRegister:
    self.member.Register(messages_);
    self.Deliver();
    break;
  case kBegin: {
    const Action& action = self.member.Actions()[self.next_action];
    switch (action.decision.kind) {
    case Kind::kRound:
    case Kind::kFlush: {
      CheckBound(action);
      buffers_[rank] = &action.group->Begin(action.decision);
      break;
    }
    case Kind::kCheck:
      hashes_[rank] = action.group->CheckHash();
      break;
    default:
      if (rank == action.decision.root) {
        replica_ = action.group->Offer();
      }
    }
    break;
  }
  case kFinish: {
    const Action action = self.member.Actions()[self.next_action++];
    auto& done = self.member.Completed();
    switch (action.decision.kind) {
    case Kind::kRound:
    case Kind::kFlush:
      action.group->Finish(action.decision, done);
      break;
    case Kind::kCheck:
      action.group->FinishCheck(action.decision, hashes_, done);
      break;
    default:
      action.group->FinishTransfer(action.decision, replica_, done);
    }
    self.Deliver();
    break;
  }
  }
}

void World::Exchange() {
  words_.assign(ranks_[0]->words.size(), 0);
  for (const auto& rank : ranks_) {
    if (rank->words.size() != words_.size()) {
      Fail("agreement: the exchanges have different lengths");
    }
    for (size_t i = 0; i < words_.size(); ++i) {
      words_[i] |= rank->words[i];
    }
  }
}

// The words with the verdicts of the exchange before.
void World::DelayVerdicts() {
  delayed_words_ = words_;
  const auto& groups = ranks_[0]->member.groups();
  size_t at = Member::HeadOf(size()) + groups.size() * kSays * size();
  for (const auto& group : groups) {
    if (!group->tuner()) {
      continue;
    }
    uint64_t& before = delayed_[group->spec().name];
    uint64_t now = 0;
    for (int bit = 0; bit < kVerdictBits; ++bit) {
      const size_t place = at + bit;
      const uint64_t mask = uint64_t{1} << (place % 64);
      now |= static_cast<uint64_t>((words_[place / 64] & mask) != 0) << bit;
      delayed_words_[place / 64] &= ~mask;
      delayed_words_[place / 64] |= ((before >> bit) & 1) != 0 ? mask : 0;
    }
    before = now;
    at += kVerdictBits + size() * kStepBits;
  }
}

void World::CompleteSynchronous() {
  std::map<std::string, int> operations;
  std::map<std::string, int> sets;
  joined_ = 0;
  for (const auto& rank : ranks_) {
    for (const auto& name : rank->sync_sent) {
      ++operations[name];
    }
    for (const auto& name : rank->set_sent) {
      ++sets[name];
    }
    joined_ += rank->joined;
  }
  auto complete = [this](const auto& counts, int wanted) {
    std::set<std::string> names;
    for (const auto& entry : counts) {
      if (entry.second == wanted) {
        names.insert(entry.first);
        happened_ = true;
        happened_synchronously_ = true;
      }
    }
    return names;
  };
  sync_complete_ = complete(operations, size() - joined_);
  set_complete_ = complete(sets, size());
}

// Nothing fails that could complete: a rank is over that never submits it.
void World::CheckLost(int rank, const std::string& operation) {
  lost_.push_back(std::to_string(rank) + ":" + operation);
  happened_ = true;
  for (int r = 0; r < size(); ++r) {
    if (ranks_[r]->Finished() && !Submits(setting_.programs[r], operation)) {
      return;
    }
  }
  Fail("operations: " + operation + " fails on rank " + std::to_string(rank) +
       " although no rank has ended without it");
}

void World::CheckBound(const Action& action) {
  const auto& name = action.group->spec().name;
  const auto& log = logs.at(name);
  if (action.decision.kind != Kind::kRound || log.results.empty() ||
      action.decision.begin_part > 0) {
    return;
  }
  const int64_t bound = log.setting.staleness_bound;
  for (int r = 0; r < size(); ++r) {
    const auto found = ranks_[r]->at_snapshot.find(name);
    if (found == ranks_[r]->at_snapshot.end() || found->second < bound ||
        action.decision.active.Has(r)) {
      continue;
    }
    // The excuse, read from the exchange itself: a rank may stay behind only
    // with its own consent.
    const size_t at =
        ranks_[r]->BitOf(*ranks_[r]->member.Find(name), Say::kExcused);
    if (((words_[at / 64] >> (at % 64)) & 1) == 0) {
      Fail("bound: a round of " + name + " starts past rank " +
           std::to_string(r) + ", which has " +
           std::to_string(found->second) + " rounds pending");
    }
  }
}

void World::CompareActions() {
  const auto& first = ranks_[0]->member.Actions();
  for (const auto& rank : ranks_) {
    const auto& actions = rank->member.Actions();
    bool same = actions.size() == first.size();
    for (size_t i = 0; same && i < actions.size(); ++i) {
      same = actions[i].group->spec().name == first[i].group->spec().name &&
             actions[i].group->next_round() == first[i].group->next_round() &&
             actions[i].decision.ToString() == first[i].decision.ToString();
    }
    if (!same) {
      Fail("agreement: ranks decide differently");
    }
    for (const auto& group : ranks_[0]->member.groups()) {
      const auto other = rank->member.Find(group->spec().name);
      if (group->tuner() && other->tuner()->k() != group->tuner()->k()) {
        Fail("agreement: ranks have different K in " + group->spec().name);
      }
    }
  }
}

void World::Reduce() {
  const Action& action = ranks_[0]->member.Actions()[ranks_[0]->next_action];
  const Kind kind = action.decision.kind;
  if (kind != Kind::kRound && kind != Kind::kFlush) {
    return;
  }
  const std::string& name = action.group->spec().name;
  auto& log = logs.at(name);
  const Layout& layout = action.group->layout();
  const auto begin =
      static_cast<int>(2 * layout.PartBegin(action.decision.begin_part));
  const auto end =
      static_cast<int>(2 * layout.PartBegin(action.decision.end_part));
  if (action.decision.begin_part == 0) {
    if (log.under_way) {
      Fail("atomic: a round of " + name + " begins in the middle of another");
    }
    if (action.group->next_round() !=
        static_cast<int64_t>(log.results.size())) {
      Fail("agreement: round " + std::to_string(action.group->next_round()) +
           " of " + name + " comes after " +
           std::to_string(log.results.size()) + " rounds");
    }
    log.results.push_back(Values{});
    if (kind == Kind::kFlush) {
      ++log.flushes;
    } else {
      log.active_sum += action.decision.active.Count();
    }
  }
  Values sum{};
  for (int r = 0; r < size(); ++r) {
    Values values = ValuesOf(*buffers_[r]);
    std::fill(values.begin(), values.begin() + begin, 0);
    std::fill(values.begin() + end, values.end(), 0);
    if (action.decision.sole >= 0 && r != action.decision.sole &&
        values != Values{}) {
      Fail("conservation: rank " + std::to_string(r) + " contributes to a round of " +
           name + " that is a broadcast");
    }
    const bool stale =
        kind == Kind::kFlush || !action.decision.active.Has(r);
    const int times = stale && fault() == Fault::kLoseStale     ? 0
                      : stale && fault() == Fault::kDoubleCount ? 2
                                                                : 1;
    for (int e = 0; e < kElements; ++e) {
      sum[e] += times * values[e];
    }
  }
  if (action.decision.empty && sum != Values{}) {
    Fail("conservation: an empty round of " + name + " has contributions");
  }
  auto tensors = TensorsOf(sum, begin / 2);
  tensors.resize((end - begin) / 2);
  for (Buffers* buffers : buffers_) {
    buffers->CopyIn(tensors, begin / 2);
  }
  Values& result = log.results.back();
  std::copy(sum.begin() + begin, sum.begin() + end, result.begin() + begin);
  in_parts_ += end < kElements && !log.under_way ? 1 : 0;
  log.under_way = end < kElements;
  if (!log.under_way && log.uninterrupted &&
      (result[1] != result[3] || result[1] != result[5])) {
    Fail("atomic: round " + std::to_string(log.results.size() - 1) + " of " +
         name + " carries a part of a submission only");
  }
}

void World::EndPhase() {
  stepped_.assign(size(), false);
  auto next_action = [this] {
    const Rank& first = *ranks_[0];
    if (first.next_action < first.member.Actions().size()) {
      happened_ = true;
      return kBegin;
    }
    // Responses follow the rounds: a join ends here.
    if (joined_ > 0 && joined_ + first.member.ended().Count() == size()) {
      happened_ = true;
      happened_synchronously_ = true;
      for (auto& rank : ranks_) {
        if (rank->joined) {
          rank->joined = false;
          rank->join_done = true;
        }
      }
    }
    joined_ = 0;
    wanted_ = happened_synchronously_;
    happened_synchronously_ = false;
    for (const auto& rank : ranks_) {
      rank->member.EndCycle();
      if (rank->member.FollowUp() != first.member.FollowUp()) {
        Fail("agreement: ranks differ in whether a cycle follows");
      }
      wanted_ = wanted_ || (rank->member.FollowUp() &&
                            fault() != Fault::kNoFollowUp);
    }
    ++cycle_;
    idle_ = happened_ ? 0 : idle_ + 1;
    happened_ = false;
    return kSnapshot;
  };
  switch (phase_) {
  case kSnapshot:
    Exchange();
    if (fault() == Fault::kLateChange) {
      DelayVerdicts();
    }
    CompleteSynchronous();
    phase_ = kResolve;
    break;
  case kResolve:
    if (ranks_[0]->member.RegistrationDue()) {
      phase_ = kAnnounce;
    } else {
      CompareActions();
      phase_ = next_action();
    }
    break;
  case kAnnounce:
    phase_ = kRegister;
    break;
  case kRegister:
    CompareActions();
    phase_ = next_action();
    break;
  case kBegin:
    Reduce();
    phase_ = kFinish;
    break;
  case kFinish:
    phase_ = next_action();
    break;
  }
}

bool World::AllDrained() const {
  return phase_ == kSnapshot && ranks_[0]->member.drained().Full() &&
         std::all_of(ranks_.begin(), ranks_.end(),
                     [](const auto& rank) { return rank->Finished(); });
}

std::string World::Positions() const {
  std::string text;
  for (int r = 0; r < size(); ++r) {
    text += "; rank " + std::to_string(r) + " " + ranks_[r]->Where();
  }
  for (const auto& group : ranks_[0]->member.groups()) {
    text += "; " + ranks_[0]->member.Explain(group->spec().name);
  }
  return text;
}

void World::CheckEnd() {
  for (const auto& rank : ranks_) {
    for (const auto& name : rank->sync_sent) {
      if (std::all_of(setting_.programs.begin(), setting_.programs.end(),
                      [&](const auto& program) {
                        return Submits(program, name);
                      })) {
        Fail("operations: " + name +
             " has not completed although every rank submitted it");
      }
    }
  }
  for (const auto& entry : logs) {
    const auto& name = entry.first;
    const auto& log = entry.second;
    if (log.results.empty()) {
      continue; // no submission came to its end
    }
    if (std::any_of(ranks_.begin(), ranks_.end(), [&name](const auto& rank) {
          const auto& left = rank->member.left();
          return std::find(left.begin(), left.end(), name) != left.end();
        })) {
      continue; // it was given up with something in a send buffer, as is told
    }
    Values sum{};
    for (const auto& result : log.results) {
      for (int e = 0; e < kElements; ++e) {
        sum[e] += result[e];
      }
    }
    for (const auto& rank : ranks_) {
      auto group = rank->member.Find(name);
      if (group && group->holds()) {
        const Values held = ValuesOf(group->send_buffer());
        for (int e = 0; e < kElements; ++e) {
          sum[e] += held[e];
        }
      }
      if (group) {
        int element = 0;
        for (const void* tensor : group->staged()) {
          for (int e = 0; e < 2; ++e) {
            sum[element++] += static_cast<const double*>(tensor)[e];
          }
        }
      }
    }
    if (sum != log.submitted) {
      Fail("conservation: submissions to " + name + " add up to " +
           std::to_string(log.submitted[0]) + ", results and send buffers to " +
           std::to_string(sum[0]));
    }
  }
}

bool World::CycleIsDue() const {
  Want most = Want::kNothing;
  Want least = Want::kNow;
  for (const auto& rank : ranks_) {
    most = std::max(most, rank->told);
    least = std::min(least, rank->told);
  }
  return most == Want::kNow ||
         (least >= Want::kAlong && most >= Want::kTogether);
}

// Background threads sleep until a cycle is due.
void World::Sleep(const std::vector<int>& runnable, int eagerness) {
  if (!runnable.empty() && random_.Chance(eagerness)) {
    ranks_[runnable[random_.Below(static_cast<int>(runnable.size()))]]
        ->RunOnce();
    return;
  }
  ranks_[random_.Below(size())]->Stir();
  wanted_ = CycleIsDue();
  if (!wanted_ && runnable.empty()) {
    for (auto& rank : ranks_) {
      rank->Stir();
    }
    wanted_ = CycleIsDue();
    for (auto& rank : ranks_) {
      wanted_ = wanted_ || rank->Runnable();
    }
    if (!wanted_) {
      Fail("progress: all sleep" + Positions());
    }
  }
}

Outcome World::Run() {
  Outcome outcome;
  stepped_.assign(size(), false);
  messages_.resize(size());
  buffers_.resize(size());
  hashes_.resize(size());
  // How eager applications are, next to background threads.
  const int eagerness = 10 + random_.Below(81);
  try {
    while (!AllDrained()) {
      std::vector<int> runnable;
      std::vector<int> waiting;
      for (int r = 0; r < size(); ++r) {
        if (ranks_[r]->Runnable()) {
          runnable.push_back(r);
        }
        if (!stepped_[r]) {
          waiting.push_back(r);
        }
      }
      happened_ = happened_ || !runnable.empty();
      if (setting_.events && phase_ == kSnapshot && !wanted_) {
        Sleep(runnable, eagerness);
      } else if (waiting.empty()) {
        EndPhase();
      } else if (!runnable.empty() && random_.Chance(eagerness)) {
        ranks_[runnable[random_.Below(static_cast<int>(runnable.size()))]]
            ->RunOnce();
      } else {
        Step(waiting[random_.Below(static_cast<int>(waiting.size()))]);
      }
      if (idle_ >= kIdleCycles && runnable.empty()) {
        Fail("progress: nothing moves any more" + Positions());
      }
      if (cycle_ > kMostCycles) {
        Fail("progress: it does not come to an end" + Positions());
      }
    }
    CheckEnd();
  } catch (const Violation& violation) {
    outcome.violation = std::string(violation.what()) + " (cycle " +
                        std::to_string(cycle_) + ")";
  }
  outcome.cycles = cycle_;
  outcome.in_parts = in_parts_;
  outcome.lost = lost_;
  outcome.left = left_;
  for (const auto& group : setting_.groups) {
    outcome.questions.push_back(questions_[group.name]);
  }
  int64_t active = 0;
  for (const auto& entry : logs) {
    outcome.rounds += static_cast<int64_t>(entry.second.results.size());
    outcome.flushes += entry.second.flushes;
    active += entry.second.active_sum;
  }
  for (const auto& rank : ranks_) {
    for (const auto& group : rank->member.groups()) {
      outcome.late += group->stats().late;
      outcome.merged += group->stats().merged;
      outcome.cut_short += group->stats().cut_short;
      if (rank->member.rank() == 0) {
        outcome.heals += group->stats().heals;
        outcome.changes +=
            group->tuner()
                ? static_cast<int64_t>(group->tuner()->changes().size())
                : 0;
      }
    }
  }
  const int64_t counted = outcome.rounds - outcome.flushes;
  outcome.mean_active =
      counted > 0 ? static_cast<double>(active) / counted : 0;
  return outcome;
}

} // namespace

// --------------------------------------------------------------------- settings

std::vector<Op> ParseProgram(const std::vector<std::string>& words) {
  static const std::map<std::string, Op::Type> types = {
      {"compute", Op::kCompute}, {"submit", Op::kSubmit}, {"part", Op::kPart},
      {"wait", Op::kWait},       {"poll", Op::kPoll},
      {"drop", Op::kDrop},       {"sync", Op::kSync},
      {"start", Op::kStart},     {"set", Op::kAddSet},
      {"barrier", Op::kBarrier}, {"flush", Op::kFlush},
      {"leave", Op::kLeave},     {"join", Op::kJoin},
      {"retire", Op::kRetire},   {"mistake", Op::kMistake}};
  std::vector<Op> program;
  for (const auto& word : words) {
    const auto colon = word.find(':');
    const std::string type = word.substr(0, colon);
    const std::string what =
        colon == std::string::npos ? "" : word.substr(colon + 1);
    if (type == "step") {
      program.push_back({Op::kSubmit, what});
      program.push_back({Op::kWait, what});
      continue;
    }
    auto found = types.find(type);
    if (found == types.end() || (what.empty() && type != "join")) {
      throw std::invalid_argument("'" + word + "' is no step of a program");
    }
    Op op{found->second, what};
    if (op.type == Op::kCompute) {
      op.amount = std::stoi(what);
    }
    program.push_back(op);
  }
  return program;
}

Outcome Run(const Setting& setting) {
  if (static_cast<int>(setting.programs.size()) != setting.size) {
    throw std::invalid_argument("one program per rank is needed");
  }
  return World(setting).Run();
}

Setting RandomSetting(uint64_t seed, int max_size) {
  Random random(seed * 2);
  Setting setting;
  setting.seed = seed;
  setting.size = 1 + random.Below(max_size);
  setting.events = seed % 2 == 1;
  const int size = setting.size;
  setting.programs.resize(size);

  Random parts(seed * 2 + 5);
  const bool full = random.Chance(15);
  const int groups = 1 + random.Below(3);
  for (int g = 0; g < groups; ++g) {
    GroupSetting group;
    group.name = std::string(1, static_cast<char>('A' + g));
    const std::string k = std::to_string(1 + random.Below(size + 1));
    const std::vector<std::string> policies = {"solo", "majority",
                                               "quorum:" + k, "first:" + k,
                                               "auto"};
    group.policy = full ? "full" : policies[random.Below(5)];
    group.staleness_bound = 1 + random.Below(4);
    group.catch_up = std::vector<std::string>{"replay", "replay", "sum",
                                              "latest"}[random.Below(4)];
    group.resync_every = random.Chance(30) ? 1 + random.Below(6) : 0;
    group.healing = static_cast<Healing>(
        std::vector<int>{0, 1, 2, 2}[random.Below(4)]);
    group.parts = std::vector<int>{1, 1, 2, 3}[parts.Below(4)];
    setting.groups.push_back(group);
  }

  // What a rank does between two collective points.
  std::vector<int> slow(size);
  for (auto& turns : slow) {
    turns = random.Chance(20) ? 6 + random.Below(20) : random.Below(5);
  }
  // Submissions that go on after what comes between.
  std::vector<std::string> begun(size);
  auto work = [&](int rank, int steps, Random& order, Random& draw) {
    auto& program = setting.programs[rank];
    if (!begun[rank].empty()) {
      program.push_back({Op::kSubmit, begun[rank]});
      program.push_back({Op::kWait, begun[rank]});
      begun[rank].clear();
    }
    for (int step = 0; step < steps; ++step) {
      const auto& group = setting.groups[order.Below(groups)];
      const std::string& name = group.name;
      const int turns = slow[rank] > 0 ? draw.Below(slow[rank] + 1) : 0;
      program.push_back({Op::kCompute, "", turns});
      // (Under full, as everything: alike on all ranks.)
      const int first = group.parts > 1 ? order.Below(group.parts) : 0;
      for (int part = 0; part < first; ++part) {
        program.push_back({Op::kPart, name});
        if (slow[rank] > 0) {
          program.push_back({Op::kCompute, "", draw.Below(slow[rank] + 1)});
        }
      }
      if (first > 0 && order.Chance(20)) {
        const auto& other = setting.groups[order.Below(groups)].name;
        if (other != name) {
          program.push_back({Op::kSubmit, other});
          program.push_back({Op::kWait, other});
        }
      }
      if (first > 0 && step == steps - 1 && order.Chance(30)) {
        begun[rank] = name;
        break;
      }
      program.push_back({Op::kSubmit, name});
      if (draw.Chance(25)) {
        program.push_back({Op::kCompute, "", 1 + draw.Below(4)});
      }
      program.push_back({draw.Chance(15) ? Op::kPoll : Op::kWait, name});
    }
  };

  // Settings that differ at first, with nothing between the attempts that would
  // keep the ranks together.
  Random wrong(seed * 2 + 3);
  for (int left = size > 1 && wrong.Chance(30) ? 1 + wrong.Below(4) : 0;
       left > 0; --left) {
    const std::string name = setting.groups[wrong.Below(groups)].name;
    for (auto& program : setting.programs) {
      program.push_back({Op::kCompute, "", wrong.Below(6)});
      program.push_back({Op::kMistake, name});
    }
  }

  Random loose(seed * 2 + 7);
  const int segments = 1 + random.Below(4);
  std::vector<bool> joined(size, false);
  auto nobody_joined = [&joined] {
    return std::none_of(joined.begin(), joined.end(), [](bool j) { return j; });
  };
  for (int segment = 0; segment < segments; ++segment) {
    const int steps = random.Below(4);
    const uint64_t shared = seed * 7919 + segment;
    // Under full, every rank submits alike, as Horovod asks for; otherwise
    // each at its own will, also while another waits in an operation.
    const int kind = random.Below(full ? 3 : 4);
    const std::string name = setting.groups[random.Below(groups)].name;
    const std::string id = std::to_string(segment);
    const bool complete = nobody_joined();
    const bool leaves = !full && loose.Chance(20);
    for (int rank = 0; rank < size; ++rank) {
      if (joined[rank]) {
        continue;
      }
      Random alike(shared);
      Random own(shared * 31 + rank);
      work(rank, full ? steps : own.Below(5), full ? alike : own, own);
      auto& program = setting.programs[rank];
      if (!full && segments > 1 && segment > 0 && own.Chance(10)) {
        program.push_back({Op::kJoin, ""});
        joined[rank] = true;
      } else if (kind == 0) {
        program.push_back({Op::kSync, "S" + id});
      } else if (kind == 1) {
        if (leaves) {
          // An error that the program catches: it goes on with the group.
          const bool wrong = own.Chance(30);
          program.push_back({wrong ? Op::kLeave : Op::kFlush, name});
          program.push_back({Op::kSubmit, name});
          program.push_back({own.Chance(30) ? Op::kDrop : Op::kWait, name});
          program.push_back({Op::kSubmit, name});
          program.push_back({Op::kWait, name});
        } else {
          program.push_back({Op::kFlush, name});
        }
      } else if (kind == 2 && own.Chance(50)) {
        program.push_back({Op::kCompute, "", own.Below(10)});
      } else if (kind == 3 && complete) {
        program.push_back({Op::kSync, "S" + id});
        program.push_back({Op::kFlush, name});
      }
    }
    // A barrier that Horovod cannot see needs everybody.
    if (!full && random.Chance(20) && nobody_joined()) {
      for (auto& program : setting.programs) {
        program.push_back({Op::kBarrier, "B" + id});
      }
    }
  }
  bool joins = !nobody_joined() || random.Chance(20);

  // Operations that some ranks do not wait for, or never submit. Each rank
  // waits for some first ones at most, in the same order, so that none can wait
  // for another that is at a later one.
  const int operations = loose.Chance(40) ? 1 + loose.Below(4) : 0;
  const bool sets = nobody_joined() && loose.Chance(30);
  joins = joins && !(sets && operations > 0);
  std::vector<bool> is_set(operations);
  for (int i = 0; i < operations; ++i) {
    is_set[i] = sets && loose.Chance(50);
  }
  for (int rank = 0; rank < size; ++rank) {
    if (joined[rank]) {
      continue;
    }
    auto& program = setting.programs[rank];
    const int most = loose.Chance(50) ? operations : loose.Below(operations + 1);
    bool left = false;
    for (int i = 0; i < operations; ++i) {
      const std::string name = "U" + std::to_string(i);
      program.push_back({Op::kCompute, "", loose.Below(6)});
      if (!full && loose.Chance(30)) {
        const auto& group = setting.groups[loose.Below(groups)].name;
        program.push_back({Op::kSubmit, group});
        program.push_back({Op::kWait, group});
      }
      if (i < most && is_set[i]) {
        program.push_back({Op::kAddSet, name});
      } else if (i < most && loose.Chance(60)) {
        program.push_back({Op::kSync, name});
      } else if (!is_set[i] && (i < most || loose.Chance(30))) {
        program.push_back({Op::kStart, name});
        left = true;
      }
    }
    // (Horovod counts what a rank has submitted before it joined as another's.)
    if (joins && !left && (operations == 0 || loose.Chance(80))) {
      program.push_back({Op::kJoin, ""});
    }
  }
  return setting;
}

std::string Describe(const Setting& setting) {
  static const char* names[] = {"compute", "submit", "part",   "wait",
                                "poll",    "sync",   "start",  "set",
                                "barrier", "flush",  "leave",  "drop",
                                "join",    "retire", "mistake"};
  std::ostringstream out;
  out << "seed " << setting.seed << ", " << setting.size << " ranks\n";
  for (const auto& group : setting.groups) {
    out << "  group " << group.name << ": " << group.policy
        << ", staleness_bound " << group.staleness_bound << ", catch_up "
        << group.catch_up << ", resync_every " << group.resync_every
        << std::vector<const char*>{"", ", heals at flushes", ", heals"}
               [static_cast<int>(group.healing)]
        << (group.parts > 1 ? ", in " + std::to_string(group.parts) + " parts"
                            : "")
        << "\n";
  }
  for (int rank = 0; rank < setting.size; ++rank) {
    out << "  rank " << rank << ":";
    for (const auto& op : setting.programs[rank]) {
      out << ' ' << names[op.type];
      if (op.type == Op::kCompute) {
        out << ':' << op.amount;
      } else if (!op.what.empty()) {
        out << ':' << op.what;
      }
    }
    out << "\n";
  }
  return out.str();
}

} // namespace sim
} // namespace horovod_partial
