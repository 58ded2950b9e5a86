import { defineConfig, loadEnv } from 'vite';

// `npm run dev` serves the page with a running gateway behind it.
const gateway = loadEnv('', '.', 'TIDEGATE_')['TIDEGATE_URL'] ?? 'http://127.0.0.1:8080';

export default defineConfig({
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    target: 'es2022',
    // Anything inlined as a data URL would need a weaker Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    // Host and origin stay those of the page, as the gateway wants them.
    proxy: { '/api': { target: gateway, ws: true } },
  },
});
