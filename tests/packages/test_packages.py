"""What is in the packages, and what installing, upgrading and taking them away does to a Debian.

    TIDEGATE_DEB=… TIDEGATE_TARBALL=… TIDEGATE_ROOTFS=… python3 -m unittest discover -s tests/packages

Needs root (namespaces and mounts), lintian, man, mandoc, bash, fish, zsh and a static busybox.
"""

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEB = Path(os.environ["TIDEGATE_DEB"]).resolve()
TARBALL = Path(os.environ["TIDEGATE_TARBALL"]).resolve()
ROOTFS = Path(os.environ["TIDEGATE_ROOTFS"]).resolve()
MOST = 12_000_000
CONFIGURATION = "/etc/tidegate/tidegate.toml"
REGISTRY = "/etc/tidegate/devices.toml"
# What a purge may leave: the records of dpkg and systemd about what was there once.
RECORDS = re.compile(r"^/(var/log/|var/lib/dpkg/|var/cache/|tmp/|run/|given)|^/etc/(passwd|group|shadow|gshadow)-$")


def run(*command, check=True, **options):
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


class Unpacked(unittest.TestCase):
    """The Debian package, looked at from outside."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = Path(cls.folder.name)
        run("dpkg-deb", "--raw-extract", DEB, cls.root)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def pages(self):
        return sorted(self.root.glob("usr/share/man/man*/*.gz"))

    def test_lintian_has_nothing_to_say(self):
        done = run("lintian", "--allow-root", "--fail-on", "error,warning", DEB, check=False)
        # Its own remarks about overrides and about root are none of the package's.
        said = [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")]
        self.assertEqual((done.returncode, said), (0, []), done.stderr)

    def test_the_program_is_stripped_small_and_without_the_demo(self):
        program = self.root / "usr/bin/tidegate"
        self.assertLess(program.stat().st_size, MOST)
        self.assertNotIn(".symtab", run("readelf", "--wide", "--section-headers", program).stdout)
        self.assertNotIn("demo", run(program, "--help").stdout)
        print(f"program {program.stat().st_size} bytes, package {DEB.stat().st_size}", file=sys.stderr)

    def test_modes_and_owners_are_what_policy_asks_for(self):
        listing = run("dpkg-deb", "--contents", DEB).stdout.splitlines()
        self.assertGreater(len(listing), 50)
        for line in listing:
            mode, owner, _, _, _, name = line.split(maxsplit=5)
            expected = "drwxr-xr-x" if mode[0] == "d" else "-rw-r--r--"
            if name == "./usr/bin/tidegate":
                expected = "-rwxr-xr-x"
            self.assertEqual((mode, owner), (expected, "0/0"), name)

    def test_the_configuration_is_the_only_conffile(self):
        # The registry is data that the program writes: an upgrade must not ask about it.
        self.assertEqual((self.root / "DEBIAN/conffiles").read_text().split(), [CONFIGURATION])
        self.assertFalse((self.root / REGISTRY[1:]).exists())

    def test_units_and_the_user_are_where_systemd_looks(self):
        units = {path.name for path in (ROOT / "systemd").glob("*.s[eo][rc]*")}
        self.assertIn("tidegate.service", units)
        there = {path.name for path in (self.root / "usr/lib/systemd/system").iterdir()}
        self.assertEqual(there, units)
        self.assertIn("tidegate.catalog", os.listdir(self.root / "usr/lib/systemd/catalog"))
        self.assertIn("u tidegate", (self.root / "usr/lib/sysusers.d/tidegate.conf").read_text())

    def test_every_command_has_its_page_and_no_page_is_of_anything_else(self):
        program = self.root / "usr/bin/tidegate"
        expected, ahead = set(), [[]]
        while ahead:
            words = ahead.pop()
            expected.add("-".join(["tidegate", *words]) + ".1.gz")
            said = run(program, *words, "--help").stdout
            block = re.search(r"^Commands:\n((?:  .*\n?)+)", said, re.MULTILINE)
            names = re.findall(r"^  (\w[\w-]*)", block[1], re.MULTILINE) if block else []
            ahead.extend([*words, name] for name in names if name != "help")
        self.assertGreater(len(expected), 15)
        self.assertEqual({path.name for path in self.pages()}, expected | {"tidegate.toml.5.gz"})

    def test_every_page_renders_without_a_warning(self):
        for page in self.pages():
            with self.subTest(page.name):
                text = self.root / page.stem
                text.write_bytes(gzip.decompress(page.read_bytes()))
                done = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", text)
                self.assertEqual(done.stderr, "")
                done = run("mandoc", "-T", "lint", "-W", "warning", text, check=False)
                self.assertEqual(done.stdout, "")

    def test_the_page_of_the_configuration_has_every_key(self):
        page = gzip.decompress((self.root / "usr/share/man/man5/tidegate.toml.5.gz").read_bytes()).decode()
        for line in (ROOT / "config/tidegate.toml").read_text().splitlines():
            key = re.match(r"#?([a-z_.]+) = ", line)
            if key:
                name = key[1].split(".")[-1]
                self.assertIn(f"\\fB{name}\\fR = ", page)

    def test_completions_are_taken_by_their_shells(self):
        for shell, path in (
            ("bash", "usr/share/bash-completion/completions/tidegate"),
            ("zsh", "usr/share/zsh/vendor-completions/_tidegate"),
            ("fish", "usr/share/fish/vendor_completions.d/tidegate.fish"),
        ):
            self.assertEqual(run(shell, "-n", self.root / path).stderr, "")
            self.assertIn("rotate", (self.root / path).read_text())
            self.assertNotIn("demo", (self.root / path).read_text())
        # Not only readable: bash completes with it.
        script = self.root / "usr/share/bash-completion/completions/tidegate"
        words = 'COMP_WORDS=(tidegate device r); COMP_CWORD=2; _tidegate tidegate r device; echo "${COMPREPLY[@]}"'
        self.assertEqual(run("bash", "-c", f". {script}; {words}").stdout.split(), ["rotate", "remove"])

    def test_licences_of_what_is_in_the_program_are_in_the_package(self):
        text = gzip.decompress((self.root / "usr/share/doc/tidegate/third-party.txt.gz").read_bytes()).decode()
        packages = json.loads((ROOT / "dashboard/package.json").read_text())["dependencies"]
        for name in [*packages, "sled", "rumqttc", "ring", "tokio"]:
            self.assertRegex(text, rf"(?m)^(==== |     )?{re.escape(name)} ", name)

    def test_the_program_needs_what_every_debian_has(self):
        depends = run("dpkg-deb", "--field", DEB, "Depends").stdout
        names = {re.split(r"[ |]", part.strip())[0] for part in depends.split(",")}
        self.assertLessEqual(names, {"libc6", "libgcc-s1", "systemd"})


class Rooted(unittest.TestCase):
    """A Debian of its own for each test."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.changes = Path(self.folder.name)
        self.given = self.changes / "given"
        self.given.mkdir()
        self.before = self.tree()

    def inside(self, *command, check=True):
        return run(HERE / "inside", ROOTFS, self.changes, *command, check=check)

    def sh(self, script, check=True):
        return self.inside("sh", "-ec", script, check=check).stdout.strip()

    def tree(self):
        """Every path there is, with what it is."""
        skip = r"\( -path /proc -o -path /dev -o -path /sys -o -path /run -o -path /tmp -o -path /given \) -prune"
        listing = self.sh(rf"find / {skip} -o -printf '%p|%M|%u:%g|%l\n' | sort")
        return dict(line.split("|", 1) for line in listing.splitlines())

    def mode(self, path):
        return self.sh(f"stat -c '%a %U:%G' {path}")

    def left(self):
        """What is there that was not, and what is not that was."""
        now = self.tree()
        new = {path for path in now if path not in self.before and not RECORDS.match(path)}
        gone = {path for path in self.before if path not in now and not RECORDS.match(path)}
        return new, gone


def under_another_version(version, target, change=lambda root: None):
    """The package under another version number."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run("dpkg-deb", "--raw-extract", DEB, root)
        control = root / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
        change(root)
        run("dpkg-deb", "--build", "--root-owner-group", "-Zgzip", "-z1", root, target)


class Booted(unittest.TestCase):
    """With a real systemd."""

    def boot(self, script):
        with tempfile.TemporaryDirectory() as share:
            share = Path(share)
            under_another_version("0.0.9-1", share / "older.deb")
            shutil.copy(DEB, share / "newer.deb")
            shutil.copy(HERE / script, share / script)
            done = run(
                ROOT / "tests/systemd/boot", ROOTFS, "bash", f"/share/{script}",
                check=False, env={**os.environ, "BOOT_SHARE": str(share)},
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_an_upgrade_in_an_outage_loses_nothing_and_a_purge_leaves_nothing(self):
        self.boot("upgrade")


class Package(Rooted):
    def deb(self, version, change=lambda root: None):
        under_another_version(version, self.given / f"tidegate_{version}.deb", change)
        return f"/given/tidegate_{version}.deb"

    def install(self, deb=None):
        if deb is None:
            shutil.copy(DEB, self.given / "tidegate.deb")
            deb = "/given/tidegate.deb"
        return self.inside("dpkg", "--install", deb)

    def test_it_installs_and_works_as_its_own_user(self):
        self.install()
        self.assertEqual(self.mode("/etc/tidegate"), "750 root:tidegate")
        self.assertEqual(self.mode(CONFIGURATION), "640 root:tidegate")
        self.assertEqual(self.mode(REGISTRY), "640 root:tidegate")
        self.assertEqual(self.sh("getent passwd tidegate | cut -d: -f6,7"), "/var/lib/tidegate:/usr/sbin/nologin")
        self.assertEqual(self.sh("systemctl is-enabled tidegate.service"), "enabled")
        self.assertEqual(self.inside("systemctl", "is-enabled", "tidegate.socket", check=False).stdout, "disabled\n")
        self.assertEqual(self.inside("dpkg", "--audit").stdout, "")
        token = self.sh("tidegate device add kiln-3")
        self.assertRegex(token, r"^\S{30,}$")
        self.assertEqual(self.mode(REGISTRY), "640 root:tidegate")
        said = self.sh("install -d -m 700 -o tidegate -g tidegate /var/lib/tidegate; "
                       "setpriv --reuid tidegate --regid tidegate --clear-groups tidegate check 2>&1")
        self.assertIn("valid", said)
        self.assertNotIn("warning", said)
        # The page is in the program, and the gateway runs with what the package set up.
        page = self.sh("""
            setpriv --reuid tidegate --regid tidegate --clear-groups tidegate run 2>/tmp/log & gateway=$!
            for i in $(seq 600); do curl -fs http://127.0.0.1:8080/readyz >/dev/null && break; sleep 0.1; done
            curl -fs --compressed http://127.0.0.1:8080/ || { cat /tmp/log; exit 1; }
            tidegate status
            kill $gateway; wait $gateway
        """)
        self.assertIn("<title>", page)
        self.assertIn("devices  0 connected", page)
        self.assertEqual(self.mode("/var/lib/tidegate"), "700 tidegate:tidegate")

    def test_an_upgrade_asks_nothing_and_keeps_what_the_operator_made(self):
        self.install(self.deb("0.0.9-1"))
        self.sh(f"""
            tidegate device add kiln-3 >/dev/null
            echo '# mine' >>{CONFIGURATION}
            systemctl disable -q tidegate.service
            systemctl enable -q tidegate.socket
            mkdir -p /var/lib/tidegate && echo kept >/var/lib/tidegate/mark
        """)
        registry = self.sh(f"cat {REGISTRY}")
        # Standard input is empty: a question would end it.
        said = self.install()
        self.assertNotIn("onfiguration file", said.stdout)
        self.assertEqual(self.sh("dpkg-query -Wf '${db:Status-Abbrev}' tidegate"), "ii")
        self.assertEqual(self.sh(f"tail -n 1 {CONFIGURATION}"), "# mine")
        self.assertEqual(self.sh(f"cat {REGISTRY}"), registry)
        self.assertEqual(self.mode(CONFIGURATION), "640 root:tidegate")
        self.assertEqual(self.inside("systemctl", "is-enabled", "tidegate.service", check=False).stdout, "disabled\n")
        self.assertEqual(self.sh("systemctl is-enabled tidegate.socket"), "enabled")
        self.assertEqual(self.sh("cat /var/lib/tidegate/mark"), "kept")

    def test_a_registry_that_was_deleted_on_purpose_does_not_come_back(self):
        self.install(self.deb("0.0.9-1"))
        self.sh(f"rm {REGISTRY}")
        self.install()
        self.assertFalse((self.changes / "up" / REGISTRY[1:]).is_file())

    def test_a_changed_configuration_of_the_package_does_not_overwrite_the_operators(self):
        self.install(self.deb("0.0.9-1", lambda root: (root / CONFIGURATION[1:]).write_text("# older\n")))
        self.sh(f"echo '# mine' >>{CONFIGURATION}")
        shutil.copy(DEB, self.given / "tidegate.deb")
        self.inside("dpkg", "--force-confdef", "--force-confold", "--install", "/given/tidegate.deb")
        self.assertEqual(self.sh(f"cat {CONFIGURATION}"), "# older\n# mine")
        self.assertIn("data_dir", self.sh(f"cat {CONFIGURATION}.dpkg-dist"))

    def test_removal_keeps_configuration_and_data_and_purge_leaves_nothing(self):
        self.install()
        self.sh("tidegate device add kiln-3 >/dev/null; mkdir -p /var/lib/tidegate/spool; "
                "tidegate tls new /etc/tidegate/tls >/dev/null 2>&1; systemctl enable -q tidegate.socket")
        self.inside("dpkg", "--remove", "tidegate")
        self.sh(f"test -e {CONFIGURATION} -a -e {REGISTRY} -a -d /var/lib/tidegate -a ! -e /usr/bin/tidegate")
        # Back again, with the registry of before.
        self.install()
        self.assertIn("kiln-3", self.sh("tidegate device list"))
        self.assertEqual(self.sh("systemctl is-enabled tidegate.service"), "enabled")
        self.inside("dpkg", "--purge", "tidegate")
        self.assertEqual(self.left(), (set(), set()))
        self.assertEqual(self.sh("getent passwd tidegate || getent group tidegate || dpkg -s tidegate || true"), "")


class Tarball(Rooted):
    """The tarball with install.sh, in a Debian and in a bare busybox."""

    def setUp(self):
        super().setUp()
        with tarfile.open(TARBALL) as archive:
            archive.extractall(self.given, filter="tar")
        (self.folder_in,) = self.given.iterdir()
        self.script = f"/given/{self.folder_in.name}/install.sh"

    def test_it_installs_is_idempotent_and_goes_without_a_trace(self):
        self.inside(self.script)
        self.assertEqual(self.mode("/usr/local/bin/tidegate"), "755 root:root")
        self.assertEqual(self.mode("/etc/tidegate"), "750 root:tidegate")
        self.assertEqual(self.mode(REGISTRY), "640 root:tidegate")
        self.assertEqual(self.mode(CONFIGURATION), "640 root:tidegate")
        self.assertEqual(self.mode("/var/lib/tidegate"), "700 tidegate:tidegate")
        self.assertIn("ExecStart=/usr/local/bin/tidegate", self.sh("cat /etc/systemd/system/tidegate.service"))
        self.assertEqual(self.sh("systemd-analyze verify --man=no /etc/systemd/system/tidegate.service 2>&1"), "")
        self.assertEqual(self.sh("tidegate check 2>/dev/null"), f"{CONFIGURATION}: valid")
        self.sh(f"tidegate device add kiln-3 >/dev/null; echo '# mine' >>{CONFIGURATION}")
        registry, tree = self.sh(f"cat {REGISTRY}"), self.tree()
        self.inside(self.script)
        self.assertEqual(self.tree(), tree)
        self.assertEqual((self.sh(f"tail -n 1 {CONFIGURATION}"), self.sh(f"cat {REGISTRY}")), ("# mine", registry))
        # A file that the next version has no more goes with the upgrade.
        (self.folder_in / "doc/push.md").unlink()
        self.inside(self.script)
        self.assertEqual(set(tree) - set(self.tree()), {"/usr/local/share/doc/tidegate/push.md"})
        # Without the archive: what was installed knows how to go.
        self.inside("/usr/local/share/tidegate/install.sh", "--uninstall")
        self.sh(f"test -e {CONFIGURATION} -a -d /var/lib/tidegate -a ! -e /usr/local/bin/tidegate")
        self.inside(self.script, "--purge")
        new, gone = self.left()
        folders = {path for path in new if self.tree()[path].startswith("d")}
        self.assertEqual((new - folders, gone), (set(), set()))
        self.assertFalse([path for path in new if "tidegate" in path])

    def test_it_refuses_what_cannot_work(self):
        for arguments, why in ((["--prefix", "usr"], "must begin with /"), (["--what"], "unknown option")):
            done = self.inside(self.script, *arguments, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(why, done.stderr)
        (self.folder_in / "tidegate").write_bytes(b"\x7fELF of another machine")
        done = self.inside(self.script, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("does not run on this machine", done.stderr)
        self.assertEqual(self.left(), (set(), set()))

    def test_it_does_not_mix_with_the_debian_package(self):
        shutil.copy(DEB, self.given / "tidegate.deb")
        self.inside("dpkg", "--install", "/given/tidegate.deb")
        for arguments in ([], ["--uninstall"], ["--purge"]):
            done = self.inside(self.script, *arguments, check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("Debian package", done.stderr)
        self.sh(f"test -e {CONFIGURATION} -a -e /usr/bin/tidegate")

    def test_it_installs_into_an_image(self):
        self.sh("mkdir -p /image && cp -a /etc /usr /var /bin /lib /lib64 /sbin /image/")
        before = set(self.tree())
        self.inside(self.script, "--root", "/image")
        new = {path for path in self.tree() if path not in before}
        self.assertIn("/image/usr/local/bin/tidegate", new)
        self.assertFalse([path for path in new if not path.startswith("/image/")])
        self.assertRegex(self.sh("grep ^tidegate: /image/etc/passwd"), "nologin$")
        self.inside(self.script, "--root", "/image", "--purge")
        self.assertEqual(self.sh("grep -rl tidegate /image/etc | grep -v -- '-$' || true"), "")

    def test_a_board_with_busybox_alone_is_enough(self):
        board = Path(self.folder.name) / "board"
        for name in ("bin", "sbin", "etc", "var/lib", "tmp", "dev"):
            (board / name).mkdir(parents=True)
        os.mknod(board / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(board / "dev/urandom", 0o666 | stat.S_IFCHR, os.makedev(1, 9))
        busybox = shutil.which("busybox")
        shutil.copy(busybox, board / "bin/busybox")
        run(board / "bin/busybox", "--install", "-s", board / "bin", check=True)
        for applet in (board / "bin").iterdir():
            if applet.is_symlink():
                applet.unlink()
                applet.symlink_to("/bin/busybox")
        (board / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (board / "etc/group").write_text("root:x:0:\n")
        # This machine's libraries, where the program in the archive is not a static one.
        needed = run("ldd", self.folder_in / "tidegate", check=False).stdout
        for library in re.findall(r"(?:=> )?(/\S+) \(0x", needed):
            target = board / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        shutil.copytree(self.folder_in, board / "given")

        def there(*command):
            return run("chroot", board, *command, env={"PATH": "/usr/local/bin:/sbin:/bin"})

        first = there("/bin/sh", "/given/install.sh").stdout
        self.assertIn("There is no systemd here", first)
        there("/bin/sh", "/given/install.sh")
        self.assertEqual(stat.S_IMODE((board / "var/lib/tidegate").stat().st_mode), 0o700)
        # The name of this machine may be none that can serve.
        configuration = board / CONFIGURATION[1:]
        configuration.write_text(configuration.read_text().replace('#id = "gw-1"', 'id = "gw-1"'))
        self.assertIn("valid", there("/usr/local/bin/tidegate", "check").stdout)
        there("/bin/sh", "/given/install.sh", "--purge")
        self.assertNotIn("tidegate", (board / "etc/passwd").read_text() + (board / "etc/group").read_text())
        for name in ("etc/tidegate", "var/lib/tidegate", "usr/local/bin/tidegate"):
            self.assertFalse((board / name).exists(), name)


if __name__ == "__main__":
    unittest.main()
