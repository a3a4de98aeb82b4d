// The best path through a trellis. Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

// The least of `count` costs, `stride` apart, for each state of a vector. `won` gets which lanes
// the upper half won, in each match: those within the lower half, within the upper, and the final.
template <size_t count>
FQONNX_INLINE Vector::Shorts least(const int16_t* cost, size_t stride, Vector::Mask* won) {
  if constexpr (count == 1) {
    return Vector::load_shorts(cost);
  } else {
    constexpr size_t kHalf = count / 2;
    const Vector::Shorts lower = least<kHalf>(cost, stride, won);
    const Vector::Shorts upper = least<kHalf>(cost + kHalf * stride, stride, won + kHalf - 1);
    won[count - 2] = Vector::is_less(upper, lower);
    return Vector::lesser(lower, upper);
  }
}

// Viterbi's algorithm. States that differ in their oldest bits have the same successors, and all
// but the oldest bits of a state are its `tail`; the successors of a tail are neighbours. Costs are
// kept above INT16_MIN by as little as is known to be safe, and stay at INT16_MAX when they would
// pass it: such a state is far behind.
template <int bits>
void viterbi_bits(const Trellis& trellis, const int16_t* targets, size_t length, int start,
                  int end, uint8_t* codes) {
  constexpr size_t kBranches = size_t(1) << bits, kMatches = kBranches - 1;
  constexpr size_t kShorts = Vector::kShorts;
  const size_t states = size_t(1) << trellis.window, tails = states >> bits;
  const size_t matches = tails / kShorts * kMatches;
  thread_local Scratch costs, masks;
  int16_t* cost = costs.get<int16_t>(2, states);
  int16_t* next = cost + states;
  Vector::Mask* const won = masks.get<Vector::Mask>(length, matches);

  for (size_t s = 0; s < states; ++s) cost[s] = start < 0 ? INT16_MIN : INT16_MAX;
  if (start >= 0) cost[start] = INT16_MIN;
  int drop = 0;
  for (size_t t = 0; t < length; ++t) {
    const auto target = Vector::broadcast_short(targets[t]);
    const auto dropped = Vector::broadcast_short(int16_t(drop));
    auto lowest = Vector::broadcast_short(INT16_MAX);
    Vector::Mask* match = won + t * matches;
    for (size_t tail = 0; tail < tails; tail += kShorts, match += kMatches) {
      auto best = least<kBranches>(cost + tail, tails, match);
      lowest = Vector::lesser(lowest, best);
      best = Vector::subtract_clamped(best, dropped);
      FQONNX_UNROLL
      for (size_t part = 0; part < kBranches; ++part) {
        const size_t first = tail * kBranches + part * kShorts;
        const auto value = Vector::load_shorts(trellis.values + first);
        const auto square = Vector::square(Vector::subtract_clamped(value, target));
        Vector::store(next + first, Vector::add_clamped(Vector::repeat<bits>(best, part), square));
      }
    }
    // What every cost in `next` is above by at least.
    const int least_cost = Vector::least_lane(lowest) - drop - INT16_MIN;
    drop = least_cost < INT16_MAX ? least_cost : INT16_MAX;
    int16_t* const spent = cost;
    cost = next;
    next = spent;
  }

  size_t state = size_t(end);
  if (end < 0) {
    state = 0;
    for (size_t s = 1; s < states; ++s) state = cost[s] < cost[state] ? s : state;
  }
  for (size_t t = length; t-- > 0;) {
    codes[t] = uint8_t(state % kBranches);
    const size_t tail = state >> bits;
    const Vector::Mask* match = won + t * matches + tail / kShorts * kMatches;
    size_t oldest = 0;
    for (size_t half = kBranches / 2; half > 0; half /= 2) {
      if (match[2 * half - 2] >> (tail % kShorts * Vector::kMaskBits) & 1) {
        oldest += half;
        match += half - 1;
      }
    }
    state = oldest * tails + tail;
  }
}

void viterbi(const Trellis& trellis, const int16_t* targets, size_t length, int start, int end,
             uint8_t* codes) {
  switch (trellis.bits) {
    case 1: return viterbi_bits<1>(trellis, targets, length, start, end, codes);
    case 2: return viterbi_bits<2>(trellis, targets, length, start, end, codes);
    case 3: return viterbi_bits<3>(trellis, targets, length, start, end, codes);
    default: return viterbi_bits<4>(trellis, targets, length, start, end, codes);
  }
}

}  // namespace
}  // namespace fqonnx
