#include "cuda_operator.h"

#include <algorithm>

#include "products.h"

namespace fqonnx::cuda {
namespace {

// Rows at once, which bounds the scratch memory. cuBLAS unpacks all codes for each such part.
constexpr size_t kMaxRows = 1024, kMaxRowsOfCublas = 4096;

// Hands out pieces of one piece of memory; of none it only counts them.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  template <class T>
  T* take(size_t count) {
    T* piece = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_ = 0;
};

Weight weight_of(const FrameOperator& extents, const Attributes& attributes,
                 const PackedInputs& inputs) {
  const uint32_t bits = uint32_t(attributes.bits), block_size = uint32_t(attributes.block_size);
  const uint32_t row_bytes = uint32_t(extents.blocks() * extents.block_bytes());
  const bool begins_aligned = reinterpret_cast<uintptr_t>(inputs.codes) % 16 == 0;
  if (extents.is_trellis() && !begins_aligned) {
    throw std::invalid_argument("codes of a trellis must be at a multiple of 16 bytes");
  }
  const bool aligned = begins_aligned &&
                       (bits == 3 ? block_size == 128 : row_bytes % (bits == 1 ? 8 : 16) == 0);
  return {inputs.codes,
          inputs.scales,
          inputs.zero_points,
          uint32_t(extents.frame_out().num_vectors()),
          uint32_t(extents.frame_in().num_vectors()),
          bits,
          block_size,
          uint32_t(extents.groups()),
          attributes.group_size != 0,
          row_bytes,
          aligned,
          extents.is_trellis(),
          uint32_t(attributes.multiplier),
          inputs.levels};
}

// float16 is multiplied as such. float32 is the sum of three bfloat16, which have its range: 24
// bits, or 8 of them where the accuracy is "fast".
Activations activations_of(const Weight& weight, uint32_t rows, Element element,
                           Accuracy accuracy) {
  const bool split = element == Element::kFloat && accuracy == Accuracy::kExact;
  return {nullptr,
          rows,
          std::min(rows, 8u),
          weight.steps(),
          split ? 3u : 1u,
          element == Element::kHalf ? Element::kHalf : Element::kBFloat16,
          {weight.bits, weight.grouped, weight.trellis}};
}

bool is_identity(const DeviceFrame& frame) { return frame.kind == DeviceFrame::kIdentity; }

}  // namespace

CudaOperator::CudaOperator(const Attributes& attributes)
    : attributes_(attributes),
      extents_(attributes),
      tables_in_(extents_.frame_in()),
      tables_out_(extents_.frame_out()),
      frame_in_(tables_in_.on_device(nullptr)),
      frame_out_(tables_out_.on_device(nullptr)) {}

void CudaOperator::prepare(void* memory) {
  unsigned char* at = static_cast<unsigned char*>(memory);
  const auto copy = [&](const FrameTables& tables) {
    const std::vector<unsigned char>& bytes = tables.bytes();
    if (!bytes.empty()) copy_to_device(at, bytes.data(), bytes.size());
    const DeviceFrame frame = tables.on_device(at);
    at += bytes.size();
    return frame;
  };
  frame_in_ = copy(tables_in_);
  frame_out_ = copy(tables_out_);
  cublas_ = Cublas::of_current_device();
}

void CudaOperator::force(Path path) {
  if (path == Path::kCublas && cublas_ == nullptr) throw std::runtime_error("there is no cuBLAS");
  path_ = path;
}

struct CudaOperator::MatmulPlan {
  Device device;
  Activations x;
  enum { kDecode, kMultiply, kTrellis, kCublas } kernel;
  ProductPlan product;          // of all but the last
  size_t unpacked_numbers;      // of the last
  size_t work_floats;           // of transforms that do not fit into shared memory
  size_t coefficient_floats;    // that a frame on the other side transforms

  // The parts of the scratch memory.
  uint32_t* arrivals;
  float *partial_sums, *work, *coefficients;
  Unpacked unpacked;

  size_t carve(void* scratch) {
    Carver carver(scratch);
    x.numbers = carver.take<uint16_t>(x.pieces * x.piece_size());
    arrivals = carver.take<uint32_t>(product.tiles);
    partial_sums = carver.take<float>(product.partial_floats);
    unpacked.numbers = carver.take<uint16_t>(unpacked_numbers);
    unpacked.workspace = carver.take<char>(unpacked.workspace_bytes);
    work = carver.take<float>(work_floats);
    coefficients = carver.take<float>(coefficient_floats);
    return carver.used();
  }
};

bool CudaOperator::uses_cublas(size_t rows, Element element) const {
  if (cublas_ == nullptr || cublas_->device() != current_device().index) return false;
  if (path_ != Path::kFaster) return path_ == Path::kCublas && element != Element::kFloat;
  return rows >= least_unpacked_rows(weight_of(extents_, attributes_, {}), element);
}

size_t CudaOperator::rows_at_once(size_t rows, Element element) const {
  return std::min(rows, uses_cublas(rows, element) ? kMaxRowsOfCublas : kMaxRows);
}

CudaOperator::MatmulPlan CudaOperator::plan(uint32_t rows, Element element) const {
  const Weight weight = weight_of(extents_, attributes_, {});
  MatmulPlan plan{};
  plan.device = current_device();
  plan.x = activations_of(weight, rows, element, attributes_.accuracy);
  if (uses_cublas(rows, element)) {
    plan.kernel = MatmulPlan::kCublas;
    plan.x.tile_rows = 1;
    plan.x.order.grouped = 0;  // unpacked numbers have their scales
    plan.unpacked.columns = plan_unpacked(weight, plan.device);
    plan.unpacked.workspace_bytes = plan.device.workspace_bytes;
    plan.unpacked_numbers = size_t(plan.unpacked.columns) * weight.steps() * kStep;
  } else if (extents_.is_trellis()) {
    plan.kernel = MatmulPlan::kTrellis;
    plan.product = plan_trellis(weight, plan.x, plan.device);
  } else if (rows <= kDecodeRows) {
    plan.kernel = MatmulPlan::kDecode;
    plan.product = plan_decode(weight, plan.x, plan.device);
  } else {
    plan.kernel = MatmulPlan::kMultiply;
    plan.product = plan_multiply(weight, plan.x, plan.device);
  }
  plan.work_floats = std::max(plan_transform(frame_in_, rows, plan.device).scratch_floats,
                              plan_transform(frame_out_, rows, plan.device).scratch_floats);
  if (!is_identity(frame_out_)) plan.coefficient_floats = size_t(rows) * frame_out_.num_vectors;
  return plan;
}

size_t CudaOperator::matmul_scratch_bytes(size_t rows, Element element) const {
  if (rows == 0) return 0;
  const size_t part = rows_at_once(rows, element), rest = rows % part;
  const size_t bytes = plan(uint32_t(part), element).carve(nullptr);
  return rest == 0 ? bytes : std::max(bytes, plan(uint32_t(rest), element).carve(nullptr));
}

void CudaOperator::matmul(const void* x, Element element, size_t rows, const PackedInputs& inputs,
                          const void* bias, const std::vector<Output>& outputs, void* scratch,
                          void* stream) const {
  const auto on = cudaStream_t(stream);
  const bool straight = is_identity(frame_out_);
  size_t width = 0;
  for (const Output& output : outputs) width += output.width;
  if (outputs.empty() || outputs.size() > (straight ? kMaxOutputs : 1) ||
      width != extents_.frame_out().dim()) {
    throw std::invalid_argument("outputs that do not make up the columns of the product");
  }

  Product product{};
  product.weight = weight_of(extents_, attributes_, inputs);
  Outputs& to = product.outputs;
  to.element = straight ? element : Element::kFloat;
  to.bias = straight ? bias : nullptr;
  for (const Output& output : outputs) {
    to.data[to.count] = output.data;
    to.begin[to.count + 1] = to.begin[to.count] + uint32_t(output.width);
    ++to.count;
  }

  const size_t at_once = rows_at_once(rows, element);
  for (size_t first = 0; first < rows; first += at_once) {
    const uint32_t part = uint32_t(std::min(at_once, rows - first));
    MatmulPlan plan = this->plan(part, element);
    plan.carve(scratch);
    analyse(frame_in_, {const_cast<void*>(x), element}, uint32_t(first), inputs.signs_in, plan.x,
            plan.arrivals, plan.product.splits > 1 ? plan.product.tiles : 0, plan.work, plan.device,
            on);
    product.x = plan.x;
    product.splits = plan.product.splits;
    product.partial_sums = plan.partial_sums;
    product.arrivals = plan.arrivals;
    product.first_row = straight ? uint32_t(first) : 0;
    if (!straight) {
      to.data[0] = plan.coefficients;
      to.begin[1] = frame_out_.num_vectors;
    }
    switch (plan.kernel) {
      case MatmulPlan::kDecode: decode(product, plan.device, on); break;
      case MatmulPlan::kMultiply: multiply(product, plan.device, on); break;
      case MatmulPlan::kTrellis: multiply_trellis(product, plan.device, on); break;
      case MatmulPlan::kCublas: multiply_unpacked(product, plan.unpacked, *cublas_, on);
    }
    if (straight) continue;
    synthesise(frame_out_, plan.coefficients, part, inputs.signs_out, bias,
               {outputs[0].data, element}, first, plan.work, plan.device, on);
  }
}

struct CudaOperator::DequantizePlan {
  float *work, *coefficients;
  size_t bytes;
};

CudaOperator::DequantizePlan CudaOperator::plan_dequantize(void* scratch) const {
  const Device device = current_device();
  const Weight weight = weight_of(extents_, attributes_, {});
  const bool straight = is_identity(frame_out_);
  const size_t strips = synthesise_codes_scratch_floats(frame_in_, weight, device);
  const size_t rows = plan_transform(frame_out_, frame_in_.dim, device).scratch_floats;
  Carver carver(scratch);
  DequantizePlan plan;
  plan.work = carver.take<float>(std::max(strips, straight ? 0 : rows));
  plan.coefficients = carver.take<float>(straight ? 0 : size_t(frame_in_.dim) * weight.rows);
  plan.bytes = carver.used();
  return plan;
}

size_t CudaOperator::dequantize_scratch_bytes() const { return plan_dequantize(nullptr).bytes; }

void CudaOperator::dequantize(const PackedInputs& inputs, Element element, void* weight,
                              void* scratch, void* stream) const {
  const auto on = cudaStream_t(stream);
  const Device device = current_device();
  const DequantizePlan plan = plan_dequantize(scratch);
  const bool straight = is_identity(frame_out_);
  synthesise_codes(frame_in_, weight_of(extents_, attributes_, inputs), inputs.signs_in,
                   straight ? Rows{weight, element} : Rows{plan.coefficients, Element::kFloat},
                   plan.work, device, on);
  if (straight) return;
  synthesise(frame_out_, plan.coefficients, frame_in_.dim, inputs.signs_out, nullptr,
             {weight, element}, 0, plan.work, device, on);
}

}  // namespace fqonnx::cuda
