// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

// The functions that Python calls through ctypes, as it calls Horovod's own
// (horovod/common/basics.py). horovod_partial/_native.py declares them and says
// what each is for. No exception leaves a function: it returns -1, and
// horovod_partial_last_error() has the message for the thread that called.

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "application.h"
#include "coordinator.h"
#include "host.h"

namespace {

using namespace horovod_partial;
using glue::Application;

thread_local std::string last_error;

// -1: a wrong argument; -2: Horovod is not there or has shut down.
template <typename F> int64_t Guarded(F function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    last_error = error.what();
    return -1;
  } catch (const std::exception& error) {
    last_error = error.what();
    return -2;
  }
}

std::mutex specs_mutex;
std::map<int64_t, std::shared_ptr<const GroupSpec>> specs;
int64_t last_spec = 0;

std::shared_ptr<const GroupSpec> SpecOf(int64_t id) {
  std::lock_guard<std::mutex> guard(specs_mutex);
  auto found = specs.find(id);
  if (found == specs.end()) {
    throw std::invalid_argument("there is no group definition " +
                                std::to_string(id));
  }
  return found->second;
}

std::shared_ptr<glue::Coordinator> CoordinatorOf(int process_set_id) {
  // First: a shutdown in between takes the process set away.
  auto coordinator = horovod::common::PartialHostCoordinator(process_set_id);
  if (!horovod::common::PartialHostAlive()) {
    throw std::runtime_error("Horovod has not been initialized or has shut "
                             "down; use hvd.init().");
  }
  if (!coordinator) {
    throw std::invalid_argument(
        "process_set: this rank is not in process set " +
        std::to_string(process_set_id) + ", or there is none");
  }
  return coordinator;
}

const Round& RoundOf(Ticket ticket, int index) {
  return *Application::Get().Answer(ticket).rounds.at(index);
}

} // namespace

extern "C" {

const char* horovod_partial_last_error() { return last_error.c_str(); }

int64_t horovod_partial_define(const char* name, int tensors,
                               const char** tensor_names, const int* dtypes,
                               const int* dims, const int64_t* shapes,
                               int average, double prescale, double postscale,
                               const char* policy, uint64_t seed,
                               int64_t staleness_bound, const char* catch_up,
                               int64_t resync_every, int healing, int parts,
                               const int* part_sizes) {
  return Guarded([&]() -> int64_t {
    auto spec = std::make_shared<GroupSpec>();
    spec->name = name;
    for (int t = 0; t < tensors; ++t) {
      TensorSpec tensor;
      tensor.name = tensor_names[t];
      tensor.dtype = static_cast<DType>(dtypes[t]);
      tensor.shape.assign(shapes, shapes + dims[t]);
      shapes += dims[t];
      spec->tensors.push_back(std::move(tensor));
    }
    spec->op = average ? ReduceOp::kAverage : ReduceOp::kSum;
    spec->prescale = prescale;
    spec->postscale = postscale;
    spec->policy = ParsePolicy(policy);
    spec->seed = seed;
    spec->staleness_bound = staleness_bound;
    spec->catch_up = ParseCatchUp(catch_up);
    spec->resync_every = resync_every;
    spec->healing = static_cast<Healing>(healing);
    spec->parts.assign(part_sizes, part_sizes + parts);
    spec->Validate();
    std::lock_guard<std::mutex> guard(specs_mutex);
    specs[++last_spec] = std::move(spec);
    return last_spec;
  });
}

void horovod_partial_undefine(int64_t spec) {
  std::lock_guard<std::mutex> guard(specs_mutex);
  specs.erase(spec);
}

// The request's ticket; 0 for parts of a submission that are not its last.
int64_t horovod_partial_ask(int process_set_id, const char* group,
                            int64_t spec, int type, int first, int tensors,
                            const void* const* data, int drifted,
                            const uint64_t* hash, const char* bytes,
                            int64_t length) {
  return Guarded([&]() -> int64_t {
    Request request;
    request.type = static_cast<Request::Type>(type);
    request.tensors.assign(data, data + tensors);
    request.first = first;
    request.drifted = drifted != 0;
    if (hash != nullptr) {
      request.hash = {hash[0], hash[1]};
    }
    if (bytes != nullptr) {
      auto copy = std::make_shared<const std::string>(bytes, length);
      (request.type == Request::kOffer ? request.replica : request.restored) =
          std::move(copy);
    }
    return static_cast<int64_t>(
        CoordinatorOf(process_set_id)
            ->Ask(group, spec > 0 ? SpecOf(spec) : nullptr,
                  std::move(request)));
  });
}

int64_t horovod_partial_poll(uint64_t ticket) {
  return Guarded(
      [&]() -> int64_t { return Application::Get().Poll(ticket); });
}

int64_t horovod_partial_wait(uint64_t ticket, double seconds) {
  return Guarded(
      [&]() -> int64_t { return Application::Get().Wait(ticket, seconds); });
}

int64_t horovod_partial_wait_any(const uint64_t* tickets, int count,
                                 double seconds) {
  return Guarded([&]() -> int64_t {
    Application::Get().WaitAny({tickets, tickets + count}, seconds);
    return 0;
  });
}

struct horovod_partial_answer_t {
  int32_t status;
  int32_t rounds;
  int32_t again;
  int32_t heal;
  int32_t root;
  int32_t differed;
  int64_t message_length;
  int64_t replica_length;
};

int64_t horovod_partial_answer(uint64_t ticket,
                               horovod_partial_answer_t* answer) {
  return Guarded([&]() -> int64_t {
    const Completion& c = Application::Get().Answer(ticket);
    *answer = {c.status,
               static_cast<int32_t>(c.rounds.size()),
               c.again,
               c.heal,
               c.root,
               c.differed,
               static_cast<int64_t>(c.message.size()),
               c.replica ? static_cast<int64_t>(c.replica->size()) : 0};
    return 0;
  });
}

int64_t horovod_partial_answer_message(uint64_t ticket, char* buffer) {
  return Guarded([&]() -> int64_t {
    const Completion& c = Application::Get().Answer(ticket);
    std::memcpy(buffer, c.message.data(), c.message.size());
    return 0;
  });
}

int64_t horovod_partial_answer_replica(uint64_t ticket, char* buffer) {
  return Guarded([&]() -> int64_t {
    const Completion& c = Application::Get().Answer(ticket);
    if (c.replica) {
      std::memcpy(buffer, c.replica->data(), c.replica->size());
    }
    return 0;
  });
}

struct horovod_partial_round_t {
  int64_t index;
  int64_t count;
  int32_t flush;
  int32_t empty;
  int32_t active;
};

int64_t horovod_partial_round(uint64_t ticket, int index,
                              horovod_partial_round_t* out) {
  return Guarded([&]() -> int64_t {
    const Round& round = RoundOf(ticket, index);
    *out = {round.index, round.count, round.flush, round.empty,
            static_cast<int32_t>(round.active.size())};
    return 0;
  });
}

// Copies the active ranks, and the tensors unless `tensors` is 0.
int64_t horovod_partial_round_copy(uint64_t ticket, int index, int* active,
                                   int tensors, void* const* data) {
  return Guarded([&]() -> int64_t {
    const Round& round = RoundOf(ticket, index);
    std::copy(round.active.begin(), round.active.end(), active);
    if (tensors > 0) {
      round.result->CopyOut({data, data + tensors});
    }
    return 0;
  });
}

void horovod_partial_close(uint64_t ticket) {
  Application::Get().Close(ticket);
}

int horovod_partial_stat_names(const char** names, int most) {
  const int count = glue::Coordinator::kStats;
  for (int i = 0; i < count && i < most; ++i) {
    names[i] = glue::Coordinator::kStatNames[i];
  }
  return count;
}

// 1: `values` holds a number for each name; 0: no such group.
int64_t horovod_partial_stats(int process_set_id, const char* group,
                              double* values) {
  return Guarded([&]() -> int64_t {
    std::vector<double> numbers;
    if (!CoordinatorOf(process_set_id)->Stats(group, &numbers)) {
      return 0;
    }
    std::copy(numbers.begin(), numbers.end(), values);
    return 1;
  });
}

// Calls back with each change of K under policy auto, oldest first.
using horovod_partial_change_t = void (*)(int64_t round, int before, int k,
                                          const char* why);
int64_t horovod_partial_changes(int process_set_id, const char* group,
                                horovod_partial_change_t change) {
  return Guarded([&]() -> int64_t {
    for (const auto& c : CoordinatorOf(process_set_id)->Changes(group)) {
      change(c.round, c.before, c.k, c.Why().c_str());
    }
    return 0;
  });
}

// Calls back with each tensor of a group that the ranks have registered. 1
// when the group is known, 0 when not.
using horovod_partial_tensor_t = void (*)(const char* name, int dtype, int dims,
                                          const int64_t* shape);
int64_t horovod_partial_tensors(int process_set_id, const char* group,
                                horovod_partial_tensor_t tensor) {
  return Guarded([&]() -> int64_t {
    const auto spec = CoordinatorOf(process_set_id)->SpecOf(group);
    if (!spec) {
      return 0;
    }
    for (const auto& t : spec->tensors) {
      tensor(t.name.c_str(), static_cast<int>(t.dtype),
             static_cast<int>(t.shape.size()), t.shape.data());
    }
    return 1;
  });
}

// The names of groups whose send buffer held something when Horovod shut down,
// one per line, cut at `length`; once.
void horovod_partial_left(char* buffer, int64_t length) {
  std::string text;
  for (const auto& name : Application::Get().TakeLeft()) {
    text += name + "\n";
  }
  const size_t bytes =
      std::min<size_t>(text.size(), static_cast<size_t>(length) - 1);
  std::memcpy(buffer, text.data(), bytes);
  buffer[bytes] = '\0';
}

// Calls back with what a checkpoint needs: kind 0 the send buffer, kind 1 a
// pending round. 1 when the group is known, 0 when not.
using horovod_partial_save_t = void (*)(int kind, int64_t index, int64_t count,
                                        int empty, const char* bytes,
                                        int64_t length);
int64_t horovod_partial_save(int process_set_id, const char* group,
                             int32_t* drifted, horovod_partial_save_t save) {
  return Guarded([&]() -> int64_t {
    glue::Coordinator::Saved saved;
    if (!CoordinatorOf(process_set_id)->Save(group, &saved)) {
      return 0;
    }
    *drifted = saved.drifted;
    if (!saved.send_buffer.empty()) {
      save(0, 0, 0, 0, saved.send_buffer.data(),
           static_cast<int64_t>(saved.send_buffer.size()));
    }
    for (const auto& round : saved.pending) {
      save(1, round.index, round.count, round.empty, round.result.data(),
           static_cast<int64_t>(round.result.size()));
    }
    return 1;
  });
}

void horovod_partial_pretend_step(double seconds) {
  Application::Get().PretendStep(seconds);
}

void horovod_partial_excused(int enter) {
  auto& application = Application::Get();
  enter ? application.EnterExcused() : application.LeaveExcused();
}

void horovod_partial_end(int ended) {
  Application::Get().SetEnded(ended != 0);
}

// Whether the background thread has gone, or every rank has ended.
int horovod_partial_drained() {
  if (!horovod::common::PartialHostAlive()) {
    return 1;
  }
  const auto all = horovod::common::PartialHostCoordinator(0);
  return !all || all->all_ended();
}

} // extern "C"
