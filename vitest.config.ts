import { defineConfig } from "vitest/config";

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  test: {
    environment: "happy-dom",
    include: ["tests/js/**/*.test.{ts,tsx}"],
    restoreMocks: true,
    testTimeout: 20_000, // for machines that do other things as well
  },
});
