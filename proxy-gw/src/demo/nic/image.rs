//! What the guest boots: a kernel of Debian's and an initial RAM disk with the gateway in it.
//!
//! Invariant: files are at the paths they have on this machine, symbolic links are kept as links, and
//! so a driver of DPDK's that is found under two names is loaded once.

use super::super::process::{Error, run};
use super::super::requirements::find_program;
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// What DPDK loads at its start: buses, packet memory, and the drivers of the cards.
const PLUGINS: [&str; 6] =
    ["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_virtio", "net_vmxnet3"];

/// Directories that Debian has as links.
const MERGED: [&str; 2] = ["lib", "lib64"];

/// The files QEMU is given.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

impl Image {
    /// Packs `gateway` with what it needs and its configuration into `dir`. `kernel` is where
    /// `scripts/guest-kernel` put a kernel and its modules.
    pub(super) fn build(
        gateway: &Path,
        kernel: &Path,
        config: &str,
        dir: &Path,
    ) -> Result<Self, Error> {
        let tree = Tree::create(dir.join("guest"))?;
        tree.write("init", INIT)?;
        tree.write("gateway.toml", config)?;
        tree.copy(gateway, "proxy-gw")?;
        let busybox = find_program("busybox").ok_or_else(|| Error::new("busybox", "not found"))?;
        tree.copy(&busybox, "bin/busybox")?;
        let modules = [kernel.join("lib/modules"), tree.root.join("usr/lib")];
        run("copying the guest's modules", Command::new("cp").arg("-r").args(modules))?;

        let libraries = libraries(&[gateway.to_owned()])?;
        let plugins = plugins(&libraries)?;
        for path in libraries.iter().chain(&plugins).chain(&self::libraries(&plugins)?) {
            tree.add(path)?;
        }
        let initrd = dir.join("initrd");
        tree.pack(&initrd)?;
        Ok(Self { kernel: kernel.join("vmlinuz"), initrd })
    }
}

/// The guest's root directory in the making. DPDK keeps what is about the process in `/var/run`.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn create(root: PathBuf) -> Result<Self, Error> {
        let tree = Self { root };
        for directory in ["bin", "dev", "proc", "sys", "usr/lib", "var/run"] {
            tree.make(&tree.root.join(directory))?;
        }
        for name in MERGED {
            symlink(format!("usr/{name}"), tree.root.join(name)).map_err(in_step(name))?;
        }
        Ok(tree)
    }

    fn make(&self, directory: &Path) -> Result<(), Error> {
        fs::create_dir_all(directory).map_err(in_step(directory.display()))
    }

    /// A program of the guest's own.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(in_step(name))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(in_step(name))
    }

    fn copy(&self, from: &Path, name: impl AsRef<Path>) -> Result<(), Error> {
        fs::copy(from, self.root.join(name)).map(drop).map_err(in_step(from.display()))
    }

    /// The file at `path` under the same path; where that is a link, the link and what it leads to.
    fn add(&self, path: &Path) -> Result<(), Error> {
        let step = || in_step(path.display());
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new("packing the guest", format!("{} is no file", path.display())));
        };
        let directory = directory.canonicalize().map_err(step())?;
        let source = directory.join(name);
        let inside = self.root.join(directory.strip_prefix("/").unwrap_or(&directory));
        if inside.join(name).symlink_metadata().is_ok() {
            return Ok(());
        }
        self.make(&inside)?;
        if source.is_symlink() {
            let target = fs::read_link(&source).map_err(step())?;
            symlink(&target, inside.join(name)).map_err(step())?;
            return self.add(&directory.join(target));
        }
        self.copy(&source, inside.join(name))
    }

    fn pack(&self, initrd: &Path) -> Result<(), Error> {
        let mut pack = Command::new("sh");
        pack.args(["-c", "find . | cpio --quiet -o -H newc -F \"$0\""]).arg(initrd);
        run("packing the guest", pack.current_dir(&self.root)).map(drop)
    }
}

fn in_step<E: core::fmt::Display>(what: impl core::fmt::Display) -> impl FnOnce(E) -> Error {
    Error::in_step(format!("packing {what} for the guest"))
}

/// The shared objects that `files` are linked with, the loader among them.
fn libraries(files: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Error> {
    parse_ldd(&run("listing shared objects", Command::new("ldd").args(files))?)
}

/// `NAME => PATH (ADDRESS)`, or for the loader `PATH (ADDRESS)`; what the kernel maps has no path.
fn parse_ldd(text: &str) -> Result<BTreeSet<PathBuf>, Error> {
    let mut paths = BTreeSet::new();
    for line in text.lines() {
        if line.contains("not found") {
            return Err(Error::new("listing shared objects", line.trim()));
        }
        let words = line.split_whitespace().filter(|word| word.starts_with('/'));
        // With several files each is announced by its own name and a colon.
        paths.extend(words.filter(|word| !word.ends_with(':')).map(PathBuf::from));
    }
    Ok(paths)
}

/// The plugins of the DPDK that `libraries` are of: `.../dpdk/pmds-ABI` beside `librte_eal.so.ABI`.
fn plugins(libraries: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let missing = |what: &str| Error::new("looking for DPDK's plugins", what);
    let found = libraries.iter().find_map(|path| {
        let abi = path.file_name()?.to_str()?.strip_prefix("librte_eal.so.")?;
        Some((path.parent()?.join("dpdk"), format!("pmds-{abi}")))
    });
    let (directory, prefix) =
        found.ok_or_else(|| missing("the gateway is not linked with librte_eal.so"))?;
    let entries = fs::read_dir(&directory)
        .map_err(Error::in_step(format!("reading {}", directory.display())))?;
    let names = entries.flatten().map(|entry| entry.path());
    let directory = names
        .filter(|path| path.is_dir())
        .find(|path| path.file_name().is_some_and(|name| is_of(&name.to_string_lossy(), &prefix)))
        .ok_or_else(|| missing(&format!("no {prefix} in {}", directory.display())))?;
    Ok(PLUGINS.iter().map(|name| directory.join(format!("librte_{name}.so"))).collect())
}

/// `pmds-23` has `pmds-23.0`, but not `pmds-230`.
fn is_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip::is_root_with;

    #[test]
    fn shared_objects_are_read_from_ldd() {
        let text = "/x/librte_net_e1000.so:\n\tlinux-vdso.so.1 (0x1)\n\
                    \tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n\
                    /x/other.so:\n\tlibc.so.6 => /lib/x/libc.so.6 (0x4)\n";
        let paths = parse_ldd(text).unwrap();
        let expected = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths, expected.into());
        let error = parse_ldd("\tlibgone.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libgone.so.1"), "{error}");
    }

    #[test]
    fn plugins_are_those_of_the_same_abi() {
        assert!(is_of("pmds-23.0", "pmds-23") && is_of("pmds-23", "pmds-23"));
        assert!(!is_of("pmds-230", "pmds-23") && !is_of("pmds-24.0", "pmds-23"));
        assert!(plugins(&BTreeSet::new()).unwrap_err().to_string().contains("not linked"));
    }

    /// The image is built as for a boot, with this test's own program in the place of the gateway.
    #[test]
    fn the_initial_ram_disk_has_what_the_gateway_needs() {
        if !is_root_with(&["busybox", "cpio", "ldd"]) {
            return;
        }
        if !crate::version::drivers().contains(&"dpdk") {
            return crate::skip::skip("built without libdpdk");
        }
        let dir = super::super::super::TempDir::create().unwrap();
        let kernel = dir.path.join("kernel");
        fs::create_dir_all(kernel.join("lib/modules/6.1/kernel")).unwrap();
        fs::write(kernel.join("lib/modules/6.1/kernel/vfio-pci.ko"), "x").unwrap();
        let gateway = std::env::current_exe().unwrap();
        let image = Image::build(&gateway, &kernel, "[driver]\n", &dir.path).unwrap();

        let mut list = Command::new("sh");
        list.args(["-c", "cpio --quiet -t < \"$0\""]).arg(&image.initrd);
        let list = run("listing", &mut list).unwrap();
        let names: BTreeSet<&str> = list.lines().collect();
        for name in ["init", "proxy-gw", "gateway.toml", "bin/busybox", "lib", "lib64"] {
            assert!(names.contains(name), "{name} is missing in {list}");
        }
        assert!(names.contains("usr/lib/modules/6.1/kernel/vfio-pci.ko"), "{list}");
        for plugin in PLUGINS {
            let end = format!("/librte_{plugin}.so");
            assert!(names.iter().any(|name| name.ends_with(&end)), "{plugin} is missing in {list}");
        }
        // Nothing that a link leads to is missing, as the gateway's loader will find out.
        let tree = dir.path.join("guest");
        let mut broken = Command::new("find");
        let broken = run("looking", broken.arg(&tree).args(["-xtype", "l"])).unwrap();
        assert_eq!(broken, "", "links that lead nowhere");
        let mut version = Command::new("chroot");
        version.arg(&tree).args(["/proxy-gw", "--list"]);
        let tests = run("starting the program in the guest's tree", &mut version).unwrap();
        assert!(tests.contains("the_initial_ram_disk_has_what_the_gateway_needs"), "{tests}");
    }

    #[test]
    fn the_first_process_is_a_script_that_busybox_understands() {
        if !is_root_with(&["busybox"]) {
            return;
        }
        let dir = super::super::super::TempDir::create().unwrap();
        let script = dir.path.join("init");
        fs::write(&script, INIT).unwrap();
        run("reading it", Command::new("busybox").args(["sh", "-n"]).arg(&script)).unwrap();
    }
}
