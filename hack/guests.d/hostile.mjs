// Components that break rules which no tool lets one break, or ask for more than
// there is: by name, in the text format.

// actor is a component with the parts given: fields before the core module that
// is the actor, what that imports and is given, the body of its init (which
// returns ok, none if it falls through) and more fields of it.
const actor = ({ before = '', imports = '', given = '', init = '', more = '', realloc = 'i32 i32 i32 i32', params = 'i32 i32 i32 i32 i32' }) => `(component
  ${before}
  (core module $m
    ${imports}
    (memory (export "memory") 1)
    (func (export "realloc") (param ${realloc}) (result i32) (i32.const 1024))
    (func (export "init") (param ${params}) (result i32) ${init} (i32.const 0))
    ${more})
  (core instance $i (instantiate $m ${given}))
  (type $state (option (list u8)))
  (func $init (param "state" $state) (param "params" (tuple string)) (result (result (tuple $state) (error string)))
    (canon lift (core func $i "init") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $actor (export "init" (func $init)))
  (export "theater:simple/actor" (instance $actor)))`;

const one = '(import "x" "f" (func $f))';
const give = '(with "x" (instance (export "f" (func $f))))';

export default {
  nothing: actor({}),
  'start-loops': actor({ more: '(func $s (loop (br 0))) (start $s)' }),
  'tail-calls': actor({ more: '(func $f (result i32) (return_call $f))', init: '(drop (call $f))' }),
  'two-to-the-hundred': actor({
    more: Array.from({ length: 100 }, (_, i) => `(func $f${i}${i < 99 ? ` (call $f${i + 1}) (call $f${i + 1})` : ''})`).join(' '),
    init: '(call $f0)',
  }),
  // Three memories of 16 MiB together, if the manifest says so.
  memories: actor({
    before: `(core module $g (memory 1) (func (export "f") (result i32)
        (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size)))
      (core instance $g1 (instantiate $g)) (core instance $g2 (instantiate $g))`,
    imports: '(import "1" "f" (func $f (result i32))) (import "2" "f" (func $g (result i32)))',
    given: '(with "1" (instance $g1)) (with "2" (instance $g2))',
    init: '(if (i32.ne (i32.add (call $f) (call $g)) (i32.const 255)) (then unreachable))',
  }),
  'refused-import': actor({
    before: '(import "wasi:http/types@0.2.3" (instance $http (export "shout" (func)))) (core func $f (canon lower (func $http "shout")))',
    imports: one, given: give, init: '(call $f)',
  }),
  'own-resource': actor({
    before: '(type $r (resource (rep i32))) (core func $f (canon resource.drop $r))',
    imports: '(import "x" "f" (func $f (param i32)))', given: give, init: '(call $f (i32.const 0))',
  }),
  'across-components': actor({
    before: `(component $c (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "f") (canon lift (core func $i "f"))))
      (instance $c1 (instantiate $c)) (core func $f (canon lower (func $c1 "f")))`,
    imports: one, given: give, init: '(call $f)',
  }),
  'realloc-of-three': actor({ realloc: 'i32 i32 i32' }),
  'init-of-four': actor({ params: 'i32 i32 i32 i32' }),
  'import-of-another-type': actor({
    before: '(import "theater:simple/runtime" (instance $r (export "log" (func (param "msg" string))))) (alias export $r "log" (func $l))'
      + '(core module $p (memory (export "memory") 1)) (core instance $p (instantiate $p)) (core func $f (canon lower (func $l) (memory (core memory $p "memory"))))',
    imports: one, given: give, init: '(call $f)',
  }),
  'log-into-another-memory': actor({
    before: '(import "theater:simple/runtime" (instance $r (export "log" (func (param "msg" string))))) (alias export $r "log" (func $l))'
      + '(core module $p (memory (export "memory") 1) (data (i32.const 0) "the other memory")) (core instance $p (instantiate $p))'
      + '(core func $f (canon lower (func $l) (memory (core memory $p "memory"))))',
    imports: '(import "x" "f" (func $f (param i32 i32)))', given: give, init: '(call $f (i32.const 0) (i32.const 16))',
  }),
};
