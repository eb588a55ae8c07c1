// An actor in JavaScript: sends every byte value through cat; the state is what
// came back. wit/ has the interfaces; a name like os-spawn is osSpawn here, and
// what is a result there is a value, or is thrown.
import { log } from 'theater:simple/runtime';
import { osSpawn, osWriteStdin } from 'theater:simple/process';
import { osCloseStdin } from 'theater:simple/process-control';

// A handler returns its new state, alone in a list. What it throws is its err.
const stderr = (state, [pid, data]) => {
  throw 'cat complains';
};

export const actor = {
  init(state, [id]) {
    log(`I am ${id}`);
    const pid = osSpawn({
      program: '/usr/bin/cat',
      args: [],
      cwd: undefined, // none
      env: [],
      bufferSize: 0, // the default
      stdoutMode: 'raw',
      stderrMode: 'line-by-line',
      chunkSize: undefined,
    });
    const took = osWriteStdin(pid, Uint8Array.from({ length: 256 }, (_, i) => i));
    if (took !== 256) throw 'stdin did not take it all';
    osCloseStdin(pid);
    return [new Uint8Array()];
  },
};

export const processHandlers = {
  handleStdout(state, [pid, data]) {
    const all = new Uint8Array(state.length + data.length);
    all.set(state);
    all.set(data, state.length);
    return [all];
  },
  handleStderr: stderr,
  handleExit(state, [pid, code]) {
    if (code !== 0) throw `cat failed with ${code}`;
    return [state];
  },
};
