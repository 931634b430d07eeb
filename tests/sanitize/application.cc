// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "application.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <iterator>
#include <mutex>
#include <thread>

#include "horovod/common/operations.h"
#include "horovod_partial/csrc/core/group.h"
#include "horovod_partial/csrc/glue/application.h"

// horovod_partial/csrc/glue/c_api.cc, as horovod_partial/_native.py has it.
extern "C" {
struct horovod_partial_answer_t {
  int32_t status, rounds, again, heal, root, differed;
  int64_t message_length, replica_length;
};
struct horovod_partial_round_t {
  int64_t index, count;
  int32_t flush, empty, active;
};
using horovod_partial_save_t = void (*)(int kind, int64_t index, int64_t count,
                                        int empty, const char* bytes,
                                        int64_t length);
const char* horovod_partial_last_error();
int64_t horovod_partial_define(const char* name, int tensors,
                               const char** tensor_names, const int* dtypes,
                               const int* dims, const int64_t* shapes,
                               int average, double prescale, double postscale,
                               const char* policy, uint64_t seed,
                               int64_t staleness_bound, const char* catch_up,
                               int64_t resync_every, int healing, int parts,
                               const int* part_sizes);
void horovod_partial_undefine(int64_t spec);
int64_t horovod_partial_ask(int process_set_id, const char* group, int64_t spec,
                            int type, int first, int tensors,
                            const void* const* data, int drifted,
                            const uint64_t* hash, const char* bytes,
                            int64_t length);
int64_t horovod_partial_poll(uint64_t ticket);
int64_t horovod_partial_wait(uint64_t ticket, double seconds);
int64_t horovod_partial_wait_any(const uint64_t* tickets, int count,
                                 double seconds);
int64_t horovod_partial_answer(uint64_t ticket, horovod_partial_answer_t*);
int64_t horovod_partial_answer_message(uint64_t ticket, char* buffer);
int64_t horovod_partial_answer_replica(uint64_t ticket, char* buffer);
int64_t horovod_partial_round(uint64_t ticket, int index,
                              horovod_partial_round_t*);
int64_t horovod_partial_round_copy(uint64_t ticket, int index, int* active,
                                   int tensors, void* const* data);
void horovod_partial_close(uint64_t ticket);
int horovod_partial_stat_names(const char** names, int most);
int64_t horovod_partial_stats(int process_set_id, const char* group,
                              double* values);
int64_t horovod_partial_save(int process_set_id, const char* group,
                             int32_t* drifted, horovod_partial_save_t save);
}

namespace application {
namespace {

namespace hvd = horovod::common;
using horovod_partial::Completion;
using horovod_partial::DType;
using horovod_partial::Healing;
using horovod_partial::Request;

int64_t Checked(int64_t result) {
  if (result == -1) {
    throw std::invalid_argument(horovod_partial_last_error());
  }
  if (result < 0) {
    throw Gone(horovod_partial_last_error());
  }
  return result;
}

class Memory : public hvd::Tensor, public hvd::PersistentBuffer {
public:
  Memory(hvd::DataType dtype, const hvd::TensorShape& shape)
      : dtype_(dtype), shape_(shape),
        bytes_(shape.num_elements() * hvd::DataType_Size(dtype)) {}
  const hvd::DataType dtype() const override { return dtype_; }
  const hvd::TensorShape shape() const override { return shape_; }
  const void* data() const override { return bytes_.data(); }
  int64_t size() const override { return bytes_.size(); }
  const void* AccessData(std::shared_ptr<hvd::OpContext>) const override {
    return bytes_.data();
  }
  template <typename T> T& as() { return *reinterpret_cast<T*>(bytes_.data()); }

private:
  hvd::DataType dtype_;
  hvd::TensorShape shape_;
  std::vector<char> bytes_;
};

class Context : public hvd::OpContext {
public:
  hvd::Status
  AllocatePersistent(int64_t size,
                     std::shared_ptr<hvd::PersistentBuffer>* tensor) override {
    *tensor = std::make_shared<Memory>(hvd::HOROVOD_UINT8,
                                       hvd::TensorShape({size}));
    return hvd::Status::OK();
  }
  hvd::Status AllocateOutput(hvd::TensorShape shape,
                             std::shared_ptr<hvd::Tensor>* tensor,
                             std::shared_ptr<hvd::ReadyEvent>*) override {
    *tensor = std::make_shared<Memory>(hvd::HOROVOD_FLOAT64, shape);
    return hvd::Status::OK();
  }
  hvd::Status AllocateZeros(int64_t elements, hvd::DataType dtype,
                            std::shared_ptr<hvd::Tensor>* tensor) override {
    *tensor = std::make_shared<Memory>(dtype, hvd::TensorShape({elements}));
    return hvd::Status::OK();
  }
  hvd::Framework framework() const override {
    return hvd::Framework::PYTORCH;
  }
};

// A synchronous operation under way: Horovod's HandleManager.
class Operation {
public:
  hvd::StatusCallback callback() {
    return [state = state_](const hvd::Status& status) {
      std::lock_guard<std::mutex> guard(state->mutex);
      state->status = status;
      state->done = true;
      state->over.notify_all();
    };
  }
  bool done() const { return Done(*state_); }

  void Wait(const hvd::Status& enqueued) {
    if (!enqueued.ok()) {
      throw Gone(enqueued.reason());
    }
    horovod_partial::glue::Application::Elsewhere waits(
        [state = state_] { return Done(*state); });
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->over.wait(lock, [this] { return state_->done; });
    if (!state_->status.ok()) {
      throw Gone(state_->status.reason());
    }
  }

private:
  struct State {
    std::mutex mutex;
    std::condition_variable over;
    bool done = false;
    hvd::Status status;
  };
  static bool Done(State& state) {
    std::lock_guard<std::mutex> guard(state.mutex);
    return state.done;
  }

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

constexpr int64_t kExact = 7, kSingle = 15, kSmall = 5;
constexpr int kTensors = 4;
constexpr int kParts[] = {1, 1, 2}; // how many tensors each one has
constexpr uint16_t kHalfOne = 0x3c00, kBFloatOne = 0x3f80;

} // namespace

double Sum(double value, const std::string& name) {
  auto input = std::make_shared<Memory>(hvd::HOROVOD_FLOAT64,
                                        hvd::TensorShape({1}));
  auto output = std::make_shared<Memory>(hvd::HOROVOD_FLOAT64,
                                         hvd::TensorShape({1}));
  input->as<double>() = value;
  Operation operation;
  operation.Wait(hvd::EnqueueTensorAllreduce(
      std::make_shared<Context>(), input, output, {}, name,
      CPU_DEVICE_ID, operation.callback()));
  return output->as<double>();
}

void Barrier() {
  Operation operation;
  operation.Wait(hvd::EnqueueBarrier(operation.callback()));
}

void Join(const std::function<void(const std::function<bool()>&)>& serve) {
  auto last = std::make_shared<Memory>(hvd::HOROVOD_INT32,
                                       hvd::TensorShape({1}));
  Operation operation;
  const auto enqueued =
      hvd::EnqueueJoin(std::make_shared<Context>(), last, {}, JOIN_TENSOR_NAME,
                       CPU_DEVICE_ID, operation.callback());
  serve([&operation, &enqueued] {
    return !enqueued.ok() || operation.done();
  });
  operation.Wait(enqueued);
}

Replica::Replica(std::string name, Settings settings)
    : name_(std::move(name)), settings_(std::move(settings)),
      exact_(kExact, 0.0), exact_gradient_(kExact), single_(kSingle, 0.0f),
      single_gradient_(kSingle), half_(kSmall, 0),
      half_gradient_(kSmall, kHalfOne), bfloat_(kSmall, 0),
      bfloat_gradient_(kSmall, kBFloatOne) {
  const char* names[] = {"exact", "single", "half", "bfloat"};
  const int dtypes[] = {
      static_cast<int>(DType::kFloat64), static_cast<int>(DType::kFloat32),
      static_cast<int>(DType::kFloat16), static_cast<int>(DType::kBFloat16)};
  const int dims[] = {1, 2, 1, 1};
  const int64_t shapes[] = {kExact, 3, kSingle / 3, kSmall, kSmall};
  definition_ = Checked(horovod_partial_define(
      name_.c_str(), kTensors, names, dtypes, dims, shapes, /*average=*/0, 1.0, 1.0,
      settings_.policy.c_str(), settings_.seed, settings_.staleness_bound,
      settings_.catch_up.c_str(), settings_.resync_every,
      static_cast<int>(Healing::kInRounds),
      settings_.parts ? static_cast<int>(std::size(kParts)) : 0, kParts));
}

Replica::~Replica() { horovod_partial_undefine(definition_); }

int64_t Replica::Ask(int what, const std::vector<const void*>& data,
                     const uint64_t* digest, const std::string* payload,
                     int first) {
  return Checked(horovod_partial_ask(
      settings_.process_set, name_.c_str(), definition_, what, first,
      static_cast<int>(data.size()), data.data(), /*drifted=*/0, digest,
      payload ? payload->data() : nullptr,
      payload ? static_cast<int64_t>(payload->size()) : 0));
}

void Replica::Apply(int64_t ticket, int index) {
  horovod_partial_round_t round;
  Checked(horovod_partial_round(ticket, index, &round));
  round_ += round.count;
  std::vector<int> active(std::max(round.active, 1));
  std::vector<double> exact(kExact);
  std::vector<float> single(kSingle);
  std::vector<void*> data = {exact.data(), single.data(), half_.data(),
                             bfloat_.data()};
  Checked(horovod_partial_round_copy(ticket, index, active.data(),
                                     static_cast<int>(data.size()),
                                     data.data()));
  for (int i = 0; i < kExact; ++i) {
    exact_[i] -= exact[i];
  }
  for (int i = 0; i < kSingle; ++i) {
    single_[i] -= single[i];
  }
}

bool Replica::Take(int64_t ticket, bool heals_by_check, std::string* replica) {
  while (Checked(horovod_partial_wait(ticket, 1.0)) == 0) {
  }
  horovod_partial_answer_t answer;
  Checked(horovod_partial_answer(ticket, &answer));
  if (answer.status != Completion::kOk) {
    std::string message(answer.message_length, ' ');
    Checked(horovod_partial_answer_message(ticket, &message[0]));
    horovod_partial_close(ticket);
    if (answer.status == Completion::kAborted) {
      throw Gone(message);
    }
    throw std::invalid_argument(message);
  }
  for (int i = 0; i < answer.rounds; ++i) {
    Apply(ticket, i);
  }
  if (replica != nullptr) {
    replica->resize(answer.replica_length);
    Checked(horovod_partial_answer_replica(ticket, &(*replica)[0]));
  }
  horovod_partial_close(ticket);
  if (answer.heal && !answer.again) {
    heals_by_check ? Compare() : Transfer(answer.root);
  }
  return answer.again;
}

int64_t Replica::HandIn(double value) {
  if (first_ == 0) {
    std::fill(exact_gradient_.begin(), exact_gradient_.end(), value);
    std::fill(single_gradient_.begin(), single_gradient_.end(),
              static_cast<float>(value));
  }
  const std::vector<const void*> tensors = {
      exact_gradient_.data(), single_gradient_.data(), half_gradient_.data(),
      bfloat_gradient_.data()};
  int end = settings_.parts ? 0 : kTensors;
  for (const int* part = kParts; end <= first_; ++part) {
    end += *part;
  }
  const int64_t ticket =
      Ask(Request::kSubmit, {tensors.begin() + first_, tensors.begin() + end},
          nullptr, nullptr, first_);
  submitted_ += first_ == 0 ? value : 0;
  first_ = end % kTensors;
  return ticket;
}

void Replica::Step(double value, bool polls) {
  int64_t ticket = 0;
  while (ticket == 0) {
    ticket = HandIn(value);
  }
  while (polls && Checked(horovod_partial_poll(ticket)) == 0) {
    std::this_thread::yield();
  }
  Take(ticket, /*heals_by_check=*/false);
}

void Replica::Flush() {
  bool again = true;
  while (again) {
    const std::string payload = std::move(restored_);
    restored_.clear();
    again = Take(Ask(Request::kFlush, {}, nullptr,
                     payload.empty() ? nullptr : &payload),
                 /*heals_by_check=*/true);
  }
}

void Replica::Compare() {
  const uint64_t words[] = {digest(), ~digest()};
  Take(Ask(Request::kSync, {}, words), /*heals_by_check=*/false);
}

void Replica::Transfer(int root) {
  const bool mine =
      hvd::horovod_process_set_rank(settings_.process_set) == root;
  std::string replica;
  if (mine) {
    replica.append(reinterpret_cast<const char*>(&round_), sizeof(round_));
    replica.append(reinterpret_cast<const char*>(exact_.data()), kExact * 8);
    replica.append(reinterpret_cast<const char*>(single_.data()), kSingle * 4);
    replica.append(reinterpret_cast<const char*>(half_.data()), kSmall * 2);
    replica.append(reinterpret_cast<const char*>(bfloat_.data()), kSmall * 2);
    Take(Ask(Request::kOffer, {}, nullptr, &replica), false);
    return;
  }
  Take(Ask(Request::kReceive), false, &replica);
  const char* from = replica.data();
  auto read = [&from](void* to, size_t bytes) {
    std::memcpy(to, from, bytes);
    from += bytes;
  };
  CHECK(replica.size() == 8 + kExact * 8 + kSingle * 4 + 4 * kSmall);
  read(&round_, sizeof(round_));
  read(exact_.data(), kExact * 8);
  read(single_.data(), kSingle * 4);
  read(half_.data(), kSmall * 2);
  read(bfloat_.data(), kSmall * 2);
}

std::string Replica::Save() const {
  static thread_local std::string saved;
  saved.clear();
  int32_t drifted;
  Checked(horovod_partial_save(
      settings_.process_set, name_.c_str(), &drifted,
      [](int, int64_t, int64_t, int, const char* bytes, int64_t length) {
        saved.append(bytes, length);
      }));
  return saved;
}

void Replica::Restore(double value) {
  // Layout in csrc/core/buffer.h: a flat buffer per dtype, bfloat16 as float32.
  const std::vector<double> exact(kExact, value);
  const std::vector<float> single(kSingle, static_cast<float>(value));
  const std::vector<uint16_t> half(kSmall, kHalfOne);
  const std::vector<float> bfloat(kSmall, 1.0f);
  auto add = [this](const void* data, size_t bytes) {
    restored_.append(static_cast<const char*>(data), bytes);
  };
  restored_.clear();
  add(exact.data(), kExact * 8);
  add(single.data(), kSingle * 4);
  add(half.data(), kSmall * 2);
  add(bfloat.data(), kSmall * 4);
  submitted_ += value;
}

void Replica::JoinServing(const std::vector<Replica*>& replicas) {
  std::vector<uint64_t> tickets;
  for (auto* replica : replicas) {
    tickets.push_back(replica->Ask(Request::kListen));
  }
  Join([&](const std::function<bool()>& joined) {
    while (!tickets.empty()) {
      // Before the tickets: what comes with the last round comes first.
      const bool over = joined();
      bool answered = false;
      for (size_t i = 0; i < tickets.size(); ++i) {
        if (Checked(horovod_partial_poll(tickets[i])) != 0) {
          answered = true;
          replicas[i]->Take(tickets[i], /*heals_by_check=*/true);
          tickets[i] = replicas[i]->Ask(Request::kListen);
        }
      }
      if (over && !answered) {
        break;
      }
      if (!answered) {
        Checked(horovod_partial_wait_any(
            tickets.data(), static_cast<int>(tickets.size()), 0.005));
      }
    }
    for (size_t i = 0; i < tickets.size(); ++i) {
      replicas[i]->Take(replicas[i]->Ask(Request::kUnlisten), false);
      replicas[i]->Take(tickets[i], /*heals_by_check=*/true);
    }
  });
}

void Replica::Retire() { Take(Ask(Request::kRetire), false); }

uint64_t Replica::digest() const {
  uint64_t hash = 0xcbf29ce484222325ull;
  auto add = [&hash](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) *
             0x100000001b3ull;
    }
  };
  add(&round_, sizeof(round_));
  add(exact_.data(), kExact * 8);
  add(single_.data(), kSingle * 4);
  add(half_.data(), kSmall * 2);
  add(bfloat_.data(), kSmall * 2);
  return hash;
}

double Replica::Stat(const std::string& name) const {
  const char* names[64];
  double values[64];
  const int count = horovod_partial_stat_names(names, 64);
  if (Checked(horovod_partial_stats(settings_.process_set, name_.c_str(),
                                    values)) == 0) {
    return 0;
  }
  const auto found = std::find(names, names + count, name);
  CHECK(found != names + count);
  return values[found - names];
}

} // namespace application
