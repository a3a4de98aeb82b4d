# Adds the kernels of this folder to fqonnx_ops: by nvcc, or for the host on the emulator.
set(kernels decode.cu cuda_operator.cu multiply.cu transforms.cu transpose.cu)
list(TRANSFORM kernels PREPEND kernels/cuda/)

if(FQONNX_CUDA STREQUAL EMULATED)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  target_sources(fqonnx_ops PRIVATE kernels/cuda/emulator.cpp)
  target_compile_definitions(fqonnx_ops PRIVATE FQONNX_CUDA_EMULATED)
  target_compile_options(fqonnx_ops PRIVATE -Wno-unknown-pragmas -O1)  # soon built, as soon run
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    if(FQONNX_CUDA STREQUAL ON)
      message(FATAL_ERROR "FQONNX_CUDA=ON, but there is no nvcc")
    endif()
    return()
  endif()
  # What each compiler knows of these, and PTX of the last for GPUs that come later.
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90)
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    list(TRANSFORM CMAKE_CUDA_ARCHITECTURES REPLACE "^90$" "90-real")
    list(APPEND CMAKE_CUDA_ARCHITECTURES 100-real 120)
  endif()
  set_target_properties(fqonnx_ops PROPERTIES
    CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}"
    CUDA_RUNTIME_LIBRARY Static)
endif()

target_sources(fqonnx_ops PRIVATE
  ${kernels} kernels/cuda/frames.cpp kernels/cuda/interface.cpp)
target_include_directories(fqonnx_ops PRIVATE kernels/cuda)
target_compile_definitions(fqonnx_ops PRIVATE FQONNX_CUDA)
