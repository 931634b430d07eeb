// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "coordinator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>
#include <stdexcept>

#include <unistd.h>

#include "alarm.h"
#include "application.h"
#include "evaluator.h"
#include "gather.h"
#include "horovod/common/controller.h"
#include "horovod/common/logging.h"
#include "horovod/common/tensor_queue.h"
#include "horovod/common/timeline.h"
#include "horovod_partial/csrc/core/member.h"

namespace horovod_partial {
namespace glue {
namespace {

namespace hvd = horovod::common;
using hvd::LogLevel; // for LOG
using hvd::LogMessage;

// Operations count elements in an int, and MPI counts bytes in one.
constexpr int64_t kMostElements = int64_t{1} << 28;
constexpr size_t kMostBytes = size_t{1} << 26;

hvd::DataType HorovodType(DType storage) {
  switch (storage) {
  case DType::kFloat16:
    return hvd::HOROVOD_FLOAT16;
  case DType::kFloat64:
    return hvd::HOROVOD_FLOAT64;
  default:
    return hvd::HOROVOD_FLOAT32;
  }
}

// A part of one of our flat buffers, as Horovod's operations take it.
class FlatTensor : public hvd::Tensor {
public:
  FlatTensor(const void* data, DType dtype, int64_t elements)
      : data_(data), dtype_(dtype), elements_(elements) {}
  const hvd::DataType dtype() const override { return HorovodType(dtype_); }
  const hvd::TensorShape shape() const override {
    return hvd::TensorShape({elements_});
  }
  const void* data() const override { return data_; }
  int64_t size() const override { return elements_ * DTypeBytes(dtype_); }

private:
  const void* data_;
  DType dtype_;
  int64_t elements_;
};

std::string RowOf(const Group& group) { return "partial." + group.spec().name; }

// "[0, 2]"
std::string JsonOf(const RankSet& ranks) {
  return "[" + ranks.ToString() + "]";
}

std::vector<Hash> GatherHashes(hvd::Controller& controller, const Hash& hash) {
  const int size = controller.GetSize();
  std::vector<long long> words(2 * size, 0);
  for (int i = 0; i < 2; ++i) {
    words[2 * controller.GetRank() + i] = static_cast<long long>(hash[i]);
  }
  controller.CrossRankBitwiseOr(words, 2 * size);
  std::vector<Hash> hashes(size);
  for (int rank = 0; rank < size; ++rank) {
    hashes[rank] = {static_cast<uint64_t>(words[2 * rank]),
                    static_cast<uint64_t>(words[2 * rank + 1])};
  }
  return hashes;
}

std::shared_ptr<const std::string>
BroadcastReplica(hvd::Controller& controller, int root,
                 std::shared_ptr<const std::string> offered) {
  const bool mine = controller.GetRank() == root;
  if (mine && !offered) {
    throw std::runtime_error("a replica is wanted that was not offered");
  }
  uint64_t length = mine ? offered->size() : 0;
  controller.Bcast(&length, sizeof(length), root, hvd::Communicator::GLOBAL);
  auto replica = std::make_shared<std::string>(mine ? *offered : "");
  for (size_t at = 0; at < length; at += kMostBytes) {
    const size_t bytes = std::min<size_t>(kMostBytes, length - at);
    // It grows with what arrives: a wrong length alone allocates little.
    replica->resize(std::max(replica->size(), at + bytes));
    controller.Bcast(&(*replica)[at], bytes, root, hvd::Communicator::GLOBAL);
  }
  return replica;
}

int64_t MemoryOfThisMachine() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) *
         sysconf(_SC_PAGE_SIZE);
}

} // namespace

const char* const Coordinator::kStatNames[] = {
    "rounds",        "flushes",          "fresh",
    "stale",         "null",             "late",
    "merged",        "heals",            "pending",
    "active_sum",    "max_staleness",    "staleness_sum",
    "staleness_count", "holds",          "parts",
    "cut_short",     "wait_seconds",     "k"};
const int Coordinator::kStats =
    sizeof(Coordinator::kStatNames) / sizeof(Coordinator::kStatNames[0]);

struct Coordinator::Impl {
  struct Asked {
    std::string group;
    std::shared_ptr<const GroupSpec> spec;
    Request request;
  };

  // Requests since the last snapshot, and why there are to be no more of them.
  mutable std::mutex inbox_mutex;
  std::vector<Asked> inbox;
  std::optional<std::string> closed;

  explicit Impl(int64_t most_bytes) : most_bytes(most_bytes) {}

  const int64_t most_bytes;

  // Guards the member against readers of statistics and checkpoints, who have
  // to wait while a round is under way; only the background thread changes it.
  mutable std::mutex member_mutex;
  mutable std::condition_variable round_over;
  bool in_round = false;
  std::unique_ptr<Member> member;
  std::vector<long long> bits;
  std::atomic<int> ended{0};
  std::atomic<bool> all_ended{false};
  bool self_ended = false;

  // Since when ranks have waited for the same thing, by group.
  struct Stall {
    int64_t round;
    std::chrono::steady_clock::time_point since;
  };
  std::map<std::string, Stall> stalls;

  // What the timeline has of a group's next round.
  struct Negotiation {
    RankSet ready;
    RankSet late; // has made a late submission, which the round will carry
    RankSet waited_for;
  };
  hvd::Timeline* timeline = nullptr;
  std::map<std::string, Negotiation> negotiations;

  // Of policy auto, on the set's first rank.
  std::unique_ptr<Evaluator> evaluator;
  std::map<std::string, size_t> told; // changes of K, in the log

  void NoteStalls();
  void Tune();
  void TellChanges();
  void RecordNegotiations();
  void RecordAction(const Action& action);

  void Deliver() {
    std::vector<Completion> completed;
    completed.swap(member->Completed());
    Application::Get().Deliver(std::move(completed));
  }

  void Perform(const Action& action, hvd::Controller& controller,
               int process_set_id, const Coordinator::Perform& perform);
  void Reduce(const Action& action, Buffers& buffers, int process_set_id,
              const Coordinator::Perform& perform);
};

Coordinator::Coordinator() : Coordinator(MemoryOfThisMachine()) {}

Coordinator::Coordinator(int64_t most_bytes) : impl_(new Impl(most_bytes)) {}

Coordinator::~Coordinator() { Application::Get().Forget(this); }

std::vector<long long>&
Coordinator::Snapshot(const hvd::Controller& controller, bool joined,
                      const hvd::TensorQueue& queue) {
  auto& impl = *impl_;
  auto& application = Application::Get();
  // Where the application stands is read first: what it asked by then is in
  // the inbox, and in the queue.
  AppState app = application.StateFor(this);
  app.joined = joined;
  app.quiet = queue.Empty();
  if (app.over) {
    app.left = queue.Operations();
  }
  auto returned = application.TakeReturned(this);

  std::vector<Impl::Asked> inbox;
  {
    std::lock_guard<std::mutex> guard(impl.inbox_mutex);
    inbox.swap(impl.inbox);
  }
  std::lock_guard<std::mutex> guard(impl.member_mutex);
  returned.clear();
  if (!impl.member) {
    impl.member.reset(new Member(controller.GetRank(), controller.GetSize(),
                                 impl.most_bytes));
  }
  for (auto& asked : inbox) {
    impl.member->Ask(asked.group, asked.spec, std::move(asked.request));
  }
  if (impl.evaluator) {
    impl.evaluator->Deliver(impl.member->groups());
  }
  const auto words = impl.member->Snapshot(app);
  impl.self_ended = impl.member->self_ended();
  impl.Deliver();
  // An OR over the ranks is an AND over inverted bits.
  impl.bits.resize(words.size());
  for (size_t i = 0; i < words.size(); ++i) {
    impl.bits[i] = static_cast<long long>(~words[i]);
  }
  return impl.bits;
}

bool Coordinator::CheckForStalls(int warning_seconds, int shutdown_seconds) {
  auto& impl = *impl_;
  const auto now = std::chrono::steady_clock::now();
  bool shut_down = false;
  for (const auto& entry : impl.stalls) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
                             now - entry.second.since)
                             .count();
    if (seconds >= warning_seconds) {
      LOG(WARNING) << impl.member->Explain(entry.first) << " Nothing has moved "
                   << "there for " << seconds << " seconds.";
    }
    if (shutdown_seconds >= warning_seconds && shutdown_seconds > 0 &&
        seconds >= shutdown_seconds) {
      LOG(ERROR) << "Partial group '" << entry.first
                 << "' has stalled for longer than " << shutdown_seconds
                 << " seconds. Will shutdown.";
      shut_down = true;
    }
  }
  return shut_down;
}

void Coordinator::Impl::NoteStalls() {
  std::map<std::string, Stall> now;
  for (const auto& wait : member->Waits()) {
    auto known = stalls.find(wait.group);
    now[wait.group] =
        known != stalls.end() && known->second.round == wait.round
            ? known->second
            : Stall{wait.round, std::chrono::steady_clock::now()};
  }
  stalls.swap(now);
}

// The negotiation of a round appears as that of Horovod's own operations does:
// from the first rank that is ready, with a mark for each. Late submissions
// are noted, too.
void Coordinator::Impl::RecordNegotiations() {
  if (!timeline->Initialized()) {
    return;
  }
  for (const auto& group : member->groups()) {
    const std::string& name = group->spec().name;
    const View& view = member->LastView(name);
    if (view.part > 0) {
      continue; // who takes part in the round is settled
    }
    const RankSet& ready = view[Say::kReady];
    const RankSet late = view[Say::kHolds] - ready;
    if (ready.Empty() && late.Empty()) {
      continue;
    }
    const RankSet nobody(member->size());
    auto known =
        negotiations.emplace(name, Negotiation{nobody, nobody, nobody});
    auto& negotiation = known.first->second;
    const RankSet news = late - negotiation.late;
    if (!news.Empty()) {
      timeline->Note(RowOf(*group), "LATE", "\"ranks\": " + JsonOf(news));
      negotiation.late = negotiation.late | news;
    }
    if (ready.Empty()) {
      continue;
    }
    timeline->NegotiateStart(RowOf(*group), hvd::Request::ALLREDUCE);
    for (int rank : (ready - negotiation.ready).ToVector()) {
      timeline->NegotiateRankReady(RowOf(*group), rank);
    }
    negotiation.ready = ready;
    const Decision& decision = member->LastDecision(name);
    if (decision.kind == Kind::kWait) {
      negotiation.waited_for = decision.waited_for;
    } else {
      timeline->NegotiateEnd(RowOf(*group));
    }
  }
}

void Coordinator::Impl::RecordAction(const Action& action) {
  const Decision& decision = action.decision;
  if (!timeline->Initialized() || decision.begin_part > 0) {
    return;
  }
  const Group& group = *action.group;
  std::string args =
      "\"round\": " + std::to_string(group.next_round()) + ", ";
  switch (decision.kind) {
  case Kind::kRound: {
    const RankSet passive = RankSet::All(member->size()) - decision.active;
    auto known = negotiations.find(group.spec().name);
    args += "\"active\": " + JsonOf(decision.active) +
            ", \"stale\": " + JsonOf(decision.stale) +
            ", \"null\": " + JsonOf(passive - decision.stale) +
            ", \"waited_for\": " +
            (known == negotiations.end() ? "[]"
                                         : JsonOf(known->second.waited_for)) +
            ", \"policy\": \"" + group.spec().policy.ToString() + "\"" +
            (group.tuner() ? ", \"k\": " + std::to_string(group.tuner()->k())
                           : "");
    negotiations.erase(group.spec().name);
    timeline->Note(RowOf(group), "ROUND", args);
    return;
  }
  case Kind::kFlush:
    negotiations.erase(group.spec().name);
    timeline->Note(RowOf(group), "FLUSH",
                   args + "\"empty\": " +
                       (decision.empty ? "true" : "false"));
    return;
  case Kind::kTransfer:
    timeline->Note(RowOf(group), "HEAL",
                   args + "\"root\": " + std::to_string(decision.root));
    return;
  default:
    return;
  }
}

// Has questions of policy auto answered, beside the rounds.
void Coordinator::Impl::Tune() {
  if (evaluator && !evaluator->Free()) {
    return;
  }
  std::shared_ptr<Group> asker;
  auto question = member->NextQuestion(&asker);
  if (question) {
    if (!evaluator) {
      evaluator = std::make_unique<Evaluator>();
    }
    evaluator->Take(std::move(question), asker);
  }
}

void Coordinator::Impl::TellChanges() {
  std::map<std::string, size_t> now; // without groups that are gone
  for (const auto& group : member->groups()) {
    if (member->rank() != 0 || !group->tuner()) {
      continue;
    }
    const auto& changes = group->tuner()->changes();
    size_t& i = now[group->spec().name] = told[group->spec().name];
    for (; i < changes.size(); ++i) {
      LOG(INFO) << "Partial group '" << group->spec().name << "': from round "
                << changes[i].round << " on, a round starts with "
                << changes[i].k << " of " << member->size()
                << " ranks ready instead of " << changes[i].before << ": "
                << changes[i].Why() << ".";
    }
  }
  told.swap(now);
}

Want Coordinator::Stir(const hvd::Controller& controller, bool joined,
                       const hvd::TensorQueue& queue, bool operations,
                       bool of_all) {
  Snapshot(controller, joined, queue);
  return impl_->member->Wants(operations, of_all);
}

bool Coordinator::follow_up() const {
  return impl_->member && impl_->member->FollowUp();
}

void Coordinator::Resolve(hvd::Timeline& timeline) {
  auto& impl = *impl_;
  std::vector<uint64_t> words(impl.bits.size());
  for (size_t i = 0; i < words.size(); ++i) {
    words[i] = ~static_cast<uint64_t>(impl.bits[i]);
  }
  std::lock_guard<std::mutex> guard(impl.member_mutex);
  impl.member->Resolve(words);
  impl.round_over.notify_all(); // of a group that has been removed
  impl.Deliver();
  impl.ended = impl.member->ended().Count();
  impl.all_ended = impl.member->drained().Full();
  impl.timeline = &timeline;
  impl.NoteStalls();
  impl.RecordNegotiations();
  impl.TellChanges();
}

void Coordinator::Execute(hvd::Controller& controller, int process_set_id,
                          const Coordinator::Perform& perform) {
  auto& impl = *impl_;
  Member& member = *impl.member;
  if (member.RegistrationDue()) {
    std::string message;
    {
      std::lock_guard<std::mutex> guard(impl.member_mutex);
      message = member.Announcements();
    }
    const auto messages = GatherMessages(controller, message);
    std::lock_guard<std::mutex> guard(impl.member_mutex);
    member.Register(messages);
    impl.round_over.notify_all(); // as above
    impl.Deliver();
  }
  for (const auto& action : member.Actions()) {
    LOG(TRACE, controller.GetRank())
        << "Partial group " << action.group->spec().name << ": "
        << action.decision.ToString();
    impl.RecordAction(action);
    impl.Perform(action, controller, process_set_id, perform);
  }
  impl.Tune();
  member.EndCycle();
}

void Coordinator::Impl::Perform(const Action& action,
                                hvd::Controller& controller,
                                int process_set_id,
                                const Coordinator::Perform& perform) {
  Group& group = *action.group;
  auto& done = member->Completed();
  switch (action.decision.kind) {
  case Kind::kRound:
  case Kind::kFlush: {
    Buffers* buffers;
    const auto start = std::chrono::steady_clock::now();
    {
      std::lock_guard<std::mutex> guard(member_mutex);
      in_round = true;
      buffers = &group.Begin(action.decision);
    }
    if (!action.decision.empty) {
      Reduce(action, *buffers, process_set_id, perform);
    }
    std::lock_guard<std::mutex> guard(member_mutex);
    group.Finish(action.decision, done);
    if (Tuner* tuner = group.tuner()) {
      tuner->NoteRound(std::chrono::duration<double>(
                           std::chrono::steady_clock::now() - start)
                           .count());
    }
    in_round = false;
    round_over.notify_all();
    Deliver();
    return;
  }
  case Kind::kCheck: {
    const auto hashes = GatherHashes(controller, group.CheckHash());
    std::lock_guard<std::mutex> guard(member_mutex);
    group.FinishCheck(action.decision, hashes, done);
    Deliver();
    return;
  }
  case Kind::kTransfer: {
    auto replica = action.decision.empty
                       ? nullptr
                       : BroadcastReplica(controller, action.decision.root,
                                          group.Offer());
    std::lock_guard<std::mutex> guard(member_mutex);
    group.FinishTransfer(action.decision, std::move(replica), done);
    Deliver();
    return;
  }
  case Kind::kWait:
  case Kind::kRemove:
    return;
  }
}

// In place, the parts that go. Where one rank alone contributes, its tensors are sent to the
// others, which costs half of adding zeros to them.
void Coordinator::Impl::Reduce(const Action& action, Buffers& buffers,
                               int process_set_id,
                               const Coordinator::Perform& perform) {
  const GroupSpec& spec = action.group->spec();
  const Layout& layout = action.group->layout();
  const bool average = spec.op == ReduceOp::kAverage;
  const bool broadcasts = action.decision.sole >= 0;
  const int begin = action.decision.begin_part;
  const int end = action.decision.end_part;
  for (int b = 0; b < layout.buffers(); ++b) {
    const DType storage = layout.storage(b);
    auto* data = static_cast<char*>(buffers.data(b));
    const auto span = layout.PartsIn(b, begin, end);
    for (int64_t at = span.begin; at < span.end; at += kMostElements) {
      const int64_t elements = std::min(kMostElements, span.end - at);
      hvd::TensorTableEntry entry;
      entry.tensor_name = RowOf(*action.group);
      entry.tensor = entry.output = std::make_shared<FlatTensor>(
          data + at * DTypeBytes(storage), storage, elements);
      entry.process_set_id = process_set_id;
      hvd::Response response;
      response.add_tensor_name(entry.tensor_name);
      response.add_tensor_size(elements);
      response.set_tensor_type(HorovodType(storage));
      response.set_devices(
          std::vector<int32_t>(member->size(), CPU_DEVICE_ID));
      if (broadcasts) {
        entry.root_rank = action.decision.sole;
        response.set_response_type(hvd::Response::BROADCAST);
      } else {
        response.set_response_type(hvd::Response::ALLREDUCE);
        response.set_prescale_factor(spec.prescale);
        response.set_postscale_factor(spec.postscale);
        response.set_reduce_op(average ? hvd::ReduceOp::AVERAGE
                                       : hvd::ReduceOp::SUM);
      }
      perform(entry, response);
    }
  }
  if (broadcasts) {
    // As Horovod's allreduce does, and alike on all ranks.
    for (double factor : {spec.prescale,
                          spec.postscale / (average ? member->size() : 1)}) {
      if (factor != 1.0) {
        buffers.Scale(factor, begin, end);
      }
    }
  }
}

void Coordinator::Finalize(const std::string& message) {
  auto& impl = *impl_;
  {
    std::lock_guard<std::mutex> guard(impl.inbox_mutex);
    impl.inbox.clear();
    impl.closed = message; // all that was asked has a ticket by now
  }
  auto& application = Application::Get();
  std::vector<Completion> failures;
  for (Ticket ticket : application.Unanswered(this)) {
    Completion failure;
    failure.ticket = ticket;
    failure.status = Completion::kAborted;
    failure.message = message;
    failures.push_back(std::move(failure));
  }
  application.Deliver(std::move(failures));
  impl.evaluator.reset();
  std::lock_guard<std::mutex> guard(impl.member_mutex);
  std::vector<std::string> left;
  if (impl.member) {
    left = impl.member->left();
    for (const auto& group : impl.member->groups()) {
      if (group->holds() || !group->staged().empty()) {
        left.push_back(group->spec().name);
      }
    }
  }
  application.AddLeft(left);
  impl.in_round = false;
  impl.round_over.notify_all();
  impl.member.reset();
  impl.stalls.clear();
  impl.negotiations.clear();
  impl.told.clear();
  impl.ended = 0;
  impl.all_ended = false;
  impl.self_ended = false;
  application.Forget(this); // last: rounds give their buffers to the member
}

void Coordinator::Reopen() {
  std::lock_guard<std::mutex> guard(impl_->inbox_mutex);
  impl_->closed.reset();
}

int Coordinator::ended_count() const { return impl_->ended; }
bool Coordinator::this_rank_ended() const { return impl_->self_ended; }
bool Coordinator::Lost(const std::string& operation) const {
  return impl_->member && impl_->member->Lost(operation);
}
bool Coordinator::some_ended() const { return impl_->ended > 0; }
bool Coordinator::all_ended() const { return impl_->all_ended; }

Ticket Coordinator::Ask(const std::string& group,
                        std::shared_ptr<const GroupSpec> spec,
                        Request request) {
  auto& impl = *impl_;
  std::lock_guard<std::mutex> guard(impl.inbox_mutex);
  if (impl.closed) {
    throw std::runtime_error(*impl.closed);
  }
  const bool submission = request.type == Request::kSubmit;
  const double step = Application::Get().TakeStep(this, group);
  if (submission) {
    request.step_seconds = step; // what comes until a flush is no step
  }
  if (!submission || !spec || Submits(*spec, request)) {
    request.ticket = Application::Get().Open(this, group, submission);
  }
  const Ticket ticket = request.ticket;
  impl.inbox.push_back({group, std::move(spec), std::move(request)});
  Alarm::Get().Ring(Alarm::kPartial);
  return ticket;
}

bool Coordinator::Stats(const std::string& name,
                        std::vector<double>* values) const {
  std::lock_guard<std::mutex> guard(impl_->member_mutex);
  auto group = impl_->member ? impl_->member->Find(name) : nullptr;
  if (!group) {
    return false;
  }
  const auto& s = group->stats();
  *values = {static_cast<double>(s.rounds),
             static_cast<double>(s.flushes),
             static_cast<double>(s.fresh),
             static_cast<double>(s.stale),
             static_cast<double>(s.null),
             static_cast<double>(s.late),
             static_cast<double>(s.merged),
             static_cast<double>(s.heals),
             static_cast<double>(group->pending()),
             static_cast<double>(s.active_sum),
             static_cast<double>(s.largest_staleness),
             static_cast<double>(s.staleness_sum),
             static_cast<double>(s.staleness_count),
             group->holds() ? 1.0 : 0.0,
             static_cast<double>(s.parts),
             static_cast<double>(s.cut_short),
             Application::Get().WaitSeconds(this, name),
             static_cast<double>(group->tuner() ? group->tuner()->k() : 0)};
  return true;
}

std::vector<Change> Coordinator::Changes(const std::string& name) const {
  std::lock_guard<std::mutex> guard(impl_->member_mutex);
  auto group = impl_->member ? impl_->member->Find(name) : nullptr;
  return group && group->tuner() ? group->tuner()->changes()
                                 : std::vector<Change>();
}

std::shared_ptr<const GroupSpec>
Coordinator::SpecOf(const std::string& name) const {
  std::lock_guard<std::mutex> guard(impl_->member_mutex);
  auto group = impl_->member ? impl_->member->Find(name) : nullptr;
  return group ? std::make_shared<const GroupSpec>(group->spec()) : nullptr;
}

bool Coordinator::Save(const std::string& name, Saved* saved) const {
  std::unique_lock<std::mutex> lock(impl_->member_mutex);
  auto over = [this, &name] {
    if (impl_->in_round) {
      return false;
    }
    auto known = impl_->member ? impl_->member->Find(name) : nullptr;
    return !known || !known->in_round();
  };
  impl_->round_over.wait(lock, [this] { return !impl_->in_round; });
  if (!over()) {
    // A round in parts may wait for parts that this rank is to submit.
    lock.unlock();
    Application::Elsewhere waits;
    lock.lock();
    impl_->round_over.wait(lock, over);
  }
  auto group = impl_->member ? impl_->member->Find(name) : nullptr;
  if (!group) {
    return false;
  }
  saved->drifted = group->drifted();
  saved->send_buffer = group->holds() ? group->send_buffer().Save() : "";
  for (const auto& round : group->receive_queue()) {
    saved->pending.push_back(
        {round->index, round->count, round->empty, round->result->Save()});
  }
  return true;
}

} // namespace glue
} // namespace horovod_partial
