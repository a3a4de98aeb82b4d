// Float parts of a frame: signs, Walsh–Hadamard butterflies, products of small matrices.
// Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

void apply_signs(const float* x, const uint8_t* signs, float scale, size_t size, float* out) {
  size_t i = 0;
  for (; i + Vector::kLanes <= size; i += Vector::kLanes) {
    const auto scaled = Vector::multiply(Vector::load_floats(x + i), Vector::broadcast(scale));
    Vector::store(out + i, Vector::signed_by(scaled, signs, i));
  }
  for (; i < size; ++i) out[i] = signs[i / 8] >> i % 8 & 1 ? -scale * x[i] : scale * x[i];
}

// One stage; two at a time halve the passes over memory.
void hadamard_stage(float* x, size_t order, size_t half) {
  for (size_t start = 0; start < order; start += 2 * half) {
    for (float *a = x + start, *end = a + half; a < end; a += Vector::kLanes) {
      const auto p = Vector::load_floats(a), q = Vector::load_floats(a + half);
      Vector::store(a, Vector::add(p, q));
      Vector::store(a + half, Vector::subtract(p, q));
    }
  }
}

void hadamard_two_stages(float* x, size_t order, size_t half) {
  for (size_t start = 0; start < order; start += 4 * half) {
    for (float *a = x + start, *end = a + half; a < end; a += Vector::kLanes) {
      const auto p = Vector::load_floats(a), q = Vector::load_floats(a + half);
      const auto r = Vector::load_floats(a + 2 * half), s = Vector::load_floats(a + 3 * half);
      const auto t = Vector::add(p, q), u = Vector::subtract(p, q);
      const auto v = Vector::add(r, s), w = Vector::subtract(r, s);
      Vector::store(a, Vector::add(t, v));
      Vector::store(a + half, Vector::add(u, w));
      Vector::store(a + 2 * half, Vector::subtract(t, v));
      Vector::store(a + 3 * half, Vector::subtract(u, w));
    }
  }
}

void hadamard(float* x, size_t order) {
  if (order < Vector::kLanes) {
    for (size_t half = 1; half < order; half *= 2) {
      for (size_t i = 0; i < order; ++i) {
        if (i & half) continue;
        const float p = x[i], q = x[i + half];
        x[i] = p + q;
        x[i + half] = p - q;
      }
    }
    return;
  }
  for (size_t i = 0; i < order; i += Vector::kLanes) {
    Vector::store(x + i, Vector::butterflies(Vector::load_floats(x + i)));
  }
  size_t half = Vector::kLanes;
  for (; 4 * half <= order; half *= 4) hadamard_two_stages(x, order, half);
  if (2 * half <= order) hadamard_stage(x, order, half);
}

template <size_t width>
void matmul_columns(const float* a, const float* b, float* c, size_t k, size_t n) {
  decltype(Vector::broadcast(0)) sums[width];
  for (auto& sum : sums) sum = Vector::broadcast(0);
  for (size_t p = 0; p < k; ++p) {
    const auto factor = Vector::broadcast(a[p]);
    for (size_t v = 0; v < width; ++v) {
      const auto column = Vector::load_floats(b + p * n + v * Vector::kLanes);
      sums[v] = Vector::multiply_add(factor, column, sums[v]);
    }
  }
  for (size_t v = 0; v < width; ++v) Vector::store(c + v * Vector::kLanes, sums[v]);
}

// c (m, n) = a (m, k)·b (k, n), row by row.
void matmul(const float* a, const float* b, float* c, size_t m, size_t k, size_t n) {
  constexpr size_t kWidth = 4;
  for (size_t i = 0; i < m; ++i, a += k, c += n) {
    size_t j = 0;
    for (; j + kWidth * Vector::kLanes <= n; j += kWidth * Vector::kLanes) {
      matmul_columns<kWidth>(a, b + j, c + j, k, n);
    }
    for (; j + Vector::kLanes <= n; j += Vector::kLanes) matmul_columns<1>(a, b + j, c + j, k, n);
    for (; j < n; ++j) {
      float sum = 0;
      for (size_t p = 0; p < k; ++p) sum += a[p] * b[p * n + j];
      c[j] = sum;
    }
  }
}

void to_float(const uint16_t* halves, size_t size, float* out) {
  size_t i = 0;
  for (; i + Vector::kLanes <= size; i += Vector::kLanes) {
    Vector::store(out + i, Vector::from_halves(halves + i));
  }
  for (; i < size; ++i) out[i] = half_to_float(halves[i]);
}

void to_half(const float* x, size_t size, uint16_t* out) {
  size_t i = 0;
  for (; i + Vector::kLanes <= size; i += Vector::kLanes) {
    Vector::store_halves(out + i, Vector::load_floats(x + i));
  }
  for (; i < size; ++i) out[i] = float_to_half(x[i]);
}

}  // namespace
}  // namespace fqonnx
