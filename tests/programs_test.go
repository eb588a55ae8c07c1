package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/proscenium-dev/proscenium/isolate"
	"github.com/proscenium-dev/proscenium/tests/testenv"
)

// Real programs that do real work in the default profile. They are Debian's, by
// the names of its packages' files: what else is called so on a PATH is another.

var programs = []struct {
	program string
	args    []string
	stdin   string
	want    string // a regular expression that all of its output matches
}{
	{"/usr/bin/ls", []string{"-l", "/etc/passwd"}, "", `^-r--r--r-- 1 program program \d+ .* /etc/passwd\n$`},
	{"/usr/bin/grep", []string{"-c", "b+"}, "abb\nc\nb+\n", `^1\n$`},
	{"/usr/bin/grep", []string{"-P", `^\pL+ (?=ü)\pL+$`}, "one one\nune ünï\n1 ü", `^une ünï\n$`},
	{"/usr/bin/find", []string{"/usr/bin", "-type", "f"}, "", `^/usr/bin/find\n$`},
	{"/usr/bin/sort", []string{"--parallel=4", "-S1M", "-n"}, strings.Repeat("3\n1\n2\n", 1000), `^(1\n){1000}(2\n){1000}(3\n){1000}$`},
	{"/usr/bin/git", []string{"hash-object", "--stdin"}, "content\n", `^d95f3ad14dee633a758d2e331151e950dd13e4ed\n$`},
	{"/usr/bin/git", []string{"-c", "safe.directory=*", "-C", "REPOSITORY", "log", "--format=%s %an"}, "", `^the first one somebody\n$`},
	{"/usr/bin/python3", []string{"-c", `
import ctypes, bz2, lzma, zlib, sqlite3, ssl, json, threading, multiprocessing, hashlib, encodings.idna
lock, found = multiprocessing.Lock(), []
def work(i):
    with lock: found.append(i * i)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert zlib.decompress(zlib.compress(b"x" * 1000)) == lzma.decompress(lzma.compress(b"x" * 1000)) == bz2.decompress(bz2.compress(b"x" * 1000))
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert len(ssl.create_default_context().get_ciphers()) > 3
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def back(n): return n + 1
print(json.dumps(sorted(found)), back(41), hashlib.sha256(b"x").hexdigest()[:8])`}, "", `^\[0, 1, 4, 9, 16, 25, 36, 49\] 42 2d711642\n$`},
	{"/usr/bin/node", []string{"-e", `
const { Worker } = require("worker_threads"), { createHash } = require("crypto")
let left = 4, sum = 0
for (let i = 1; i <= 4; i++)
  new Worker("require('worker_threads').parentPort.postMessage(" + i + " * 10)", { eval: true })
    .on("message", m => { sum += m; if (--left == 0) console.log(sum, createHash("sha256").update("x").digest("hex").slice(0, 8)) })`}, "", `^100 2d711642\n$`},
	{"/usr/bin/perl", []string{"-MPOSIX=floor", "-MList::Util=sum", "-MJSON::PP", "-MDigest::SHA=sha256_hex", "-Mthreads", "-e",
		`print encode_json([sum(map { $_->join } map { threads->create(sub { $_[0] * 2 }, $_) } 1 .. 4), floor(1.5)]), " ", substr(sha256_hex("x"), 0, 8), "\n"`}, "", `^\[20,1\] 2d711642\n$`},
	{"/usr/bin/curl", []string{"-sS", "file:///etc/passwd"}, "", `^program:x:1000:1000:`},
	{"/usr/bin/curl", []string{"-sS", "https://127.0.0.1:1/"}, "", `^curl: \(7\) `}, // TLS is loaded; there is no network
	{"/usr/bin/sqlite3", []string{":memory:", "create table t(n); insert into t values (1), (2), (3); select sum(n), upper('ü' || 'x') from t"}, "", `^6\|üX\n$`},
	{"/usr/bin/openssl", []string{"enc", "-aes-256-ctr", "-K", strings.Repeat("00", 32), "-iv", strings.Repeat("00", 16), "-a"}, "content", `^[A-Za-z0-9+/]{10}==\n$`},
	{"/usr/bin/openssl", []string{"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/tmp/key", "-subj", "/CN=cell"}, "", `(?s)BEGIN CERTIFICATE.*END CERTIFICATE-----\n$`},
	{"/usr/bin/convert", []string{"-size", "40x30", "gradient:red-blue", "-resize", "50%", "JPEG:/tmp/x.jpg"}, "", `^$`},
	{"/usr/bin/convert", []string{"-size", "4x4", "xc:red", "-format", "%wx%h %m %[pixel:p{0,0}]", "info:"}, "", `^4x4 XC (red|srgb\(255,0,0\))$`},
	{"/usr/bin/iconv", []string{"-f", "iso-8859-15", "-t", "utf-8"}, "5 \xa4", `^5 €$`},
	{"/usr/bin/java", []string{"-Xmx64m", "-XX:+UseParallelGC", "-Xlog:os+thread=info", "-m", "java.base/sun.security.tools.keytool.Main", "-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1",
		"-dname", "CN=cell", "-keystore", "/tmp/keys", "-storepass", "password", "-v"}, "", `(?s)(Thread "[^"]*" started.*){4}\[Storing /tmp/keys\]`},
}

// TestPrograms: each does its work.
func TestPrograms(t *testing.T) {
	testenv.NoLeaks(t)
	repository := aRepository(t)
	for _, p := range programs {
		t.Run(filepath.Base(p.program), func(t *testing.T) {
			_, err := os.Stat(p.program)
			testenv.Need(t, "programs", err == nil, p.program+" is not installed; hack/test names the packages")
			testenv.Need(t, "speed", !tooSlow(p.program), "a machine that is emulated takes minutes for "+p.program)
			args := make([]string, len(p.args))
			for i, a := range p.args {
				args[i] = strings.ReplaceAll(a, "REPOSITORY", repository)
			}
			cmd := testenv.Launcher(t).Command(testenv.Context(t), p.program, args...)
			cmd.Env = []string{"LANG=C.UTF-8", "HOME=/tmp"}
			cmd.Isolation.Mounts = []isolate.Mount{isolate.RO(repository)}
			if p.stdin != "" {
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := in.WriteString(p.stdin); err != nil {
					t.Fatal(err)
				}
				in.Close()
			}
			out, err := cmd.CombinedOutput()
			if !regexp.MustCompile(p.want).Match(out) {
				t.Errorf("%s %q: %v:\n%s", p.program, args, err, out)
			}
		})
	}
}

// TestGoProgram: a static one, with threads.
func TestGoProgram(t *testing.T) {
	if s := testenv.Look(t, probe(t)); s.PID != 2 {
		t.Errorf("%+v", s)
	}
}

// aRepository is a git repository with one commit.
func aRepository(t *testing.T) string {
	t.Helper()
	dir := testDir(t)
	for _, args := range [][]string{
		{"init", "-q"},
		{"-c", "user.name=somebody", "-c", "user.email=somebody@example.com", "commit", "-q", "--allow-empty", "-m", "the first one"},
	} {
		cmd := exec.Command("/usr/bin/git", append([]string{"-C", dir}, args...)...)
		cmd.Env = []string{"HOME=/nonexistent"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	return dir
}

// tooSlow is a program that an emulated machine, which asks for short tests,
// takes minutes for: it has hundreds of libraries, or compiles itself.
func tooSlow(program string) bool {
	return testing.Short() && slices.Contains([]string{"/usr/bin/java", "/usr/bin/convert"}, program)
}

// realPrograms are those that this machine has, each once.
func realPrograms() []string {
	var names []string
	for _, p := range programs {
		if _, err := os.Stat(p.program); err == nil && !slices.Contains(names, p.program) && !tooSlow(p.program) {
			names = append(names, p.program)
		}
	}
	return names
}
