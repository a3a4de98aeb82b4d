// What ONNX Runtime finds in this library: the operators of the domain fqonnx.

#include <mutex>
#include <type_traits>

#include "custom_op.h"
#ifdef FQONNX_CUDA
#include "cuda_ops.h"
#endif

namespace fqonnx {
namespace {

template <ONNXTensorElementDataType type>
using ElementOf =
    std::conditional_t<type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, float, uint16_t>;

class CpuNode : public Node {
 public:
  static constexpr const char* kProvider = "CPUExecutionProvider";

  CpuNode(const OrtApi& api, const OrtKernelInfo* info) : Node(api, NodeInfo(api, info)) {}

  template <ONNXTensorElementDataType type>
  void matmul(OrtKernelContext* context) const {
    using Element = ElementOf<type>;
    const RunContext run(api_, context);
    const MatmulInputs inputs = read_matmul(run);
    SessionThreads threads(api_, context);
    operator_.matmul(run.data<Element>(run.input(0)), inputs.rows, inputs.packed,
                     inputs.bias ? run.data<Element>(inputs.bias) : nullptr,
                     run.output<Element>(inputs.output_shape), threads);
  }

  template <ONNXTensorElementDataType type>
  void dequantize(OrtKernelContext* context) const {
    const RunContext run(api_, context);
    SessionThreads threads(api_, context);
    operator_.dequantize(read_packed(run, 0), run.output<ElementOf<type>>(weight_shape()), threads);
  }
};

}  // namespace
}  // namespace fqonnx

#define FQONNX_EXPORT extern "C" __attribute__((visibility("default")))

// ONNX Runtime looks for this name.
FQONNX_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace fqonnx;
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {  // there is no API to make a status with: one that is always there
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "fqonnx needs ONNX Runtime 1.17 or later");
  }
  static const FrameMatMulOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> matmul(api);
  static const FrameMatMulOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> matmul_float16(api);
  static const FrameDequantOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT> dequant(api);
  static const FrameDequantOp<CpuNode, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16> dequant_float16(api);
  // Sessions hold a pointer to the domain, which lives as long as the library.
  static OrtCustomOpDomain* domain = nullptr;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    if (OrtStatus* status = api->CreateCustomOpDomain("fqonnx", &domain)) return status;
    std::vector<const OrtCustomOp*> ops{&matmul, &matmul_float16, &dequant, &dequant_float16};
#ifdef FQONNX_CUDA
    for (const OrtCustomOp* op : cuda_ops(base)) ops.push_back(op);
#endif
    for (const OrtCustomOp* op : ops) {
      if (OrtStatus* status = api->CustomOpDomain_Add(domain, op)) return status;
    }
  }
  return api->AddCustomOpDomain(options, domain);
}

// The instruction set that the kernels use here, for `fqonnx doctor`.
FQONNX_EXPORT const char* fqonnx_instruction_set() { return fqonnx::kernels().name; }
