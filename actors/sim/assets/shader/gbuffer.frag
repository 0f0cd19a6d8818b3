#version 450
// Matt surfaces under ambient and directional light, nothing else. No reflections and no sky, on purpose: for those SAPIEN
// computes lookup tables when the first picture of a process is taken, which is seconds of work without a GPU.

layout(constant_id = 0) const int NUM_DIRECTIONAL_LIGHTS = 0;

struct PointLight { vec4 position; vec4 emission; };
struct DirectionalLight { vec4 direction; vec4 emission; };
struct SpotLight { vec4 position; vec4 direction; vec4 emission; };

layout(set = 0, binding = 0) uniform CameraBuffer {
  mat4 viewMatrix;
  mat4 projectionMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrixInverse;
  float width;
  float height;
} camera;

layout(set = 2, binding = 0) uniform MaterialBuffer {
  vec4 emission;
  vec4 baseColor;
  float fresnel;
  float roughness;
  float metallic;
  float transmission;
  float ior;
  float transmissionRoughness;
  int textureMask;
  int padding1;
  vec4 textureTransforms[6];
} material;

layout(set = 2, binding = 1) uniform sampler2D colorTexture;
layout(set = 2, binding = 2) uniform sampler2D roughnessTexture;
layout(set = 2, binding = 3) uniform sampler2D normalTexture;
layout(set = 2, binding = 4) uniform sampler2D metallicTexture;
layout(set = 2, binding = 5) uniform sampler2D emissionTexture;
layout(set = 2, binding = 6) uniform sampler2D transmissionTexture;

layout(set = 3, binding = 0) uniform SceneBuffer {
  vec4 ambientLight;
  PointLight pointLights[10];
  DirectionalLight directionalLights[3];
  SpotLight spotLights[10];
  SpotLight texturedLights[1];
} scene;

layout(location = 0) in vec3 inNormal;
layout(location = 1) in vec2 inUV;

layout(location = 0) out vec4 outColor;

void main() {
  vec4 base = material.baseColor;
  if ((material.textureMask & 1) != 0) {
    base = texture(colorTexture, inUV * material.textureTransforms[0].zw + material.textureTransforms[0].xy);
  }
  vec3 normal = normalize(inNormal);
  vec3 light = scene.ambientLight.rgb;
  for (int i = 0; i < NUM_DIRECTIONAL_LIGHTS; ++i) {
    vec3 towards = -mat3(camera.viewMatrix) * scene.directionalLights[i].direction.xyz;
    light += scene.directionalLights[i].emission.rgb * max(dot(normal, towards), 0.0) / 3.14159265;
  }
  vec3 linear = material.emission.rgb + base.rgb * light;
  outColor = vec4(clamp(pow(linear, vec3(1.0 / 2.2)), 0.0, 1.0), 1.0);
}
