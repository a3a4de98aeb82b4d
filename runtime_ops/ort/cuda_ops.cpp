#include "cuda_ops.h"

#include "cuda_operator.h"
#include "custom_op.h"

namespace fqonnx {
namespace {

constexpr uint32_t kApiOfScratchBuffers = 18;

template <ONNXTensorElementDataType type>
constexpr cuda::Element kElement =
    type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT     ? cuda::Element::kFloat
    : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? cuda::Element::kHalf
                                                    : cuda::Element::kBFloat16;

// Memory of a device, which goes back to where it came from.
struct DeviceMemory {
  explicit DeviceMemory(const OrtApi& api) : api(api) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    if (data != nullptr) api.ReleaseStatus(api.AllocatorFree(allocator, data));
    if (allocator != nullptr) api.ReleaseAllocator(allocator);
  }

  const OrtApi& api;
  OrtAllocator* allocator = nullptr;
  void* data = nullptr;
};

class CudaNode : public Node {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  CudaNode(const OrtApi& api, const OrtKernelInfo* info)
      : Node(api, NodeInfo(api, info)),
        kernels_(attributes_),
        tables_(api) {
    if (kernels_.table_bytes() > 0) {
      check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &tables_.allocator));
      check(api, api.AllocatorAlloc(tables_.allocator, kernels_.table_bytes(), &tables_.data));
    }
    kernels_.prepare(tables_.data);
  }

  template <ONNXTensorElementDataType type>
  void matmul(OrtKernelContext* context) const {
    constexpr cuda::Element element = kElement<type>;
    const RunContext run(api_, context);
    const MatmulTensors tensors = read_matmul(run);
    std::vector<cuda::Output> outputs;
    for (size_t i = 0; i < tensors.outputs.size(); ++i) {
      outputs.push_back({run.mutable_data(tensors.outputs[i]), operator_.splits()[i]});
    }
    DeviceMemory scratch(api_);
    allocate(context, tensors.outputs[0], kernels_.matmul_scratch_bytes(tensors.rows, element),
             scratch);
    kernels_.matmul(run.address(tensors.x), element, tensors.rows, tensors.packed,
                    tensors.bias ? run.address(tensors.bias) : nullptr, outputs, scratch.data,
                    stream(context));
  }

  template <ONNXTensorElementDataType type>
  void dequantize(OrtKernelContext* context) const {
    const RunContext run(api_, context);
    const PackedInputs packed = read_packed(run, 0, kDequantLevels);
    OrtValue* output = run.output(0, weight_shape());
    DeviceMemory scratch(api_);
    allocate(context, output, kernels_.dequantize_scratch_bytes(), scratch);
    kernels_.dequantize(packed, kElement<type>, run.mutable_data(output), scratch.data,
                        stream(context));
  }

 private:
  void* stream(const OrtKernelContext* context) const {
    void* stream;
    check(api_, api_.KernelContext_GetGPUComputeStream(context, &stream));
    return stream;
  }

  // Beside `output`, for the work that this run puts into the stream: ONNX Runtime gives it to no
  // other stream before that is done, also if it is given back earlier.
  void allocate(OrtKernelContext* context, const OrtValue* output, size_t bytes,
                DeviceMemory& memory) const {
    if (bytes == 0) return;
    const OrtMemoryInfo* place;
    check(api_, api_.GetTensorMemoryInfo(output, &place));
    check(api_, api_.KernelContext_GetAllocator(context, place, &memory.allocator));
    check(api_, api_.KernelContext_GetScratchBuffer(context, place, bytes, &memory.data));
  }

  cuda::CudaOperator kernels_;
  DeviceMemory tables_;
};

}  // namespace

std::vector<const OrtCustomOp*> cuda_ops(const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiOfScratchBuffers);
  if (api == nullptr) return {};
  static const FrameMatMulOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> matmul(api);
  static const FrameMatMulOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> matmul_float16(api);
  static const FrameMatMulOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16> matmul_bfloat16(api);
  static const FrameDequantOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> dequant(api);
  static const FrameDequantOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> dequant_float16(api);
  static const FrameDequantOp<CudaNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16> dequant_bfloat16(
      api);
  return {&matmul,  &matmul_float16,  &matmul_bfloat16,
          &dequant, &dequant_float16, &dequant_bfloat16};
}

}  // namespace fqonnx
