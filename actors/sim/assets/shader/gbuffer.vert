#version 450
// Position, normal and texture coordinate of a vertex in camera space. The blocks and their names are the interface that
// SAPIEN's renderer binds; only what is used of them is read.

layout(set = 0, binding = 0) uniform CameraBuffer {
  mat4 viewMatrix;
  mat4 projectionMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrixInverse;
  float width;
  float height;
} camera;

layout(set = 1, binding = 0) uniform ObjectTransformBuffer {
  mat4 modelMatrix;
} object;

layout(set = 1, binding = 1) uniform ObjectDataBuffer {
  uvec4 segmentation;
  float transparency;
  int shadeFlat;
} objectData;

layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec3 tangent;
layout(location = 4) in vec3 bitangent;

layout(location = 0) out vec3 outNormal;
layout(location = 1) out vec2 outUV;

void main() {
  mat4 toCamera = camera.viewMatrix * object.modelMatrix;
  gl_Position = camera.projectionMatrix * (toCamera * vec4(position, 1.0));
  outNormal = transpose(inverse(mat3(toCamera))) * normal;
  outUV = uv;
}
