// Makes components: node build.mjs CORE OUT, where CORE has core modules of
// actors in C. See hack/guests.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { _addPreopen } from '@bytecodealliance/preview2-shim/filesystem';
import { componentEmbed, componentNew, componentWit, parse } from '@bytecodealliance/jco-transpile/wasm-tools';
import { componentize } from '@bytecodealliance/componentize-js';
import qjs from 'componentize-qjs';
import hostile from './hostile.mjs';

const [core, out, wit] = process.argv.slice(2).map((p) => resolve(p));
const here = dirname(fileURLToPath(import.meta.url));
const world = 'controlled-actor';
_addPreopen('/', '/'); // componentize-js reads the WIT through it

const adapter = readFileSync(join(here, 'node_modules/@bytecodealliance/jco/lib/wasi_snapshot_preview1.reactor.wasm'));

async function put(name, component) {
  const text = await componentWit(component); // the tools read it again
  if (!text.includes('export theater:simple/actor')) throw new Error(`${name} exports no actor:\n${text}`);
  writeFileSync(join(out, name + '.wasm'), component);
  console.log(`${name}: ${component.length} bytes`);
}

// The interfaces themselves: each world is valid, and a component of it with
// nothing inside imports and exports what it says.
const witSource = 'package theater:simple;\n' + readdirSync(wit)
  .filter((f) => f.endsWith('.wit'))
  .map((f) => readFileSync(join(wit, f), 'utf8').replace(/^package theater:simple;$/m, ''))
  .join('\n');
for (const [, name] of witSource.matchAll(/^world ([a-z-]+)/gm)) {
  await put('world-' + name, await componentNew(await componentEmbed({ witSource, world: name, dummy: true }), []));
}

// C, through wit-component; what imports WASI preview 1 through its adapter.
for (const file of readdirSync(core)) {
  const binary = readFileSync(join(core, file));
  const adapters = binary.includes('wasi_snapshot_preview1') ? [['wasi_snapshot_preview1', adapter]] : [];
  await put('c-' + basename(file, '.wasm'), await componentNew(await componentEmbed({ binary, witSource, world }), adapters));
}

for (const [name, text] of Object.entries(hostile)) {
  writeFileSync(join(out, 'hostile-' + name + '.wasm'), await parse(text));
}

// JavaScript, on both engines. The async one must be refused.
const sourcePath = join(here, 'echo.js');
for (const [name, disableFeatures] of [
  ['js-echo', ['stdio', 'random', 'clocks', 'http', 'fetch-event']],
  ['js-echo-default', []],
]) {
  await put(name, (await componentize({ sourcePath, witPath: wit, worldName: world, disableFeatures })).component);
}
const jsSource = readFileSync(sourcePath, 'utf8');
for (const [name, options] of [
  ['qjs-echo', { sync: true, optSize: true, stubWasi: true }],
  ['qjs-echo-wasi', { sync: true }],
  ['qjs-echo-async', {}],
]) {
  await put(name, (await qjs.componentize({ witPath: wit, world, jsSource, ...options })).component);
}
