// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_TESTS_WIRE_H
#define HOROVOD_PARTIAL_TESTS_WIRE_H

#include <cstdint>
#include <random>
#include <string>

// Flips bits in a message, writes wrong lengths and counts into it, or cuts it
// off.
void Damage(std::string& bytes, std::mt19937_64& random);

// `count` small jobs in this process. In each, one thing that a rank tells the
// others is damaged, as the seed draws it (flipped bits, wrong lengths and counts,
// pieces cut off), or a rank tells lies in the right form. Whatever arrives, a rank
// may only go on or fail with an exception; memory is for the sanitizer to watch.
void FuzzWire(uint64_t seed, int count);

// The same for what comes over the connections of a ControlPlane: `count` of them,
// each with a peer that sends damaged frames and goes away. For half of them, what
// ranks say before they are connected is damaged, too.
void FuzzFrames(uint64_t seed, int count);

#endif // HOROVOD_PARTIAL_TESTS_WIRE_H
