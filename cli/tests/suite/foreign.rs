//! RUN for another kind of machine: a program for arm64, run by qemu through binfmt_misc, and what is said where nobody
//! runs it. Interpreters are registered in a user namespace of the test's own (Linux 6.7), never for the machine. Needs
//! the Debian packages qemu-user-static, util-linux and busybox-static.

use std::path::Path;
use std::process::{Output, Stdio};

use fixtures::scene::Scene;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
const QEMU: &str = "/usr/bin/qemu-aarch64-static";

const TEXT: &[u8] = b"made by arm64\n";
const PATH: &[u8] = b"/made\0";

/// A program for arm64 that writes a file: `openat`, `write`, `exit`.
fn program() -> Vec<u8> {
    const CODE: usize = 0x78; // behind the headers
    const ADR: u32 = 0x1000_0001; // adr x1, .
    const SVC: u32 = 0xd400_0001;
    let code = [
        0x9280_0c60, // mov x0, AT_FDCWD
        ADR,         // the path
        0xd280_0822, // mov x2, O_CREAT | O_WRONLY
        0xd280_3483, // mov x3, 0644
        0xd280_0708, // mov x8, openat
        SVC,
        ADR,                                      // the text
        0xd280_0002 | ((TEXT.len() as u32) << 5), // mov x2, its length
        0xd280_0808,                              // mov x8, write
        SVC,
        0xd280_0000, // mov x0, 0
        0xd280_0ba8, // mov x8, exit
        SVC,
    ];
    let data = 4 * code.len() as u32;
    let reach = |at: usize, place: u32| {
        let distance = place - 4 * at as u32;
        ADR | (distance & 3) << 29 | (distance >> 2) << 5
    };
    let mut code = code;
    code[1] = reach(1, data);
    code[6] = reach(6, data + PATH.len() as u32);
    let mut body: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend(PATH);
    body.extend(TEXT);

    let (base, size) = (0x40_0000_u64, (CODE + body.len()) as u64);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    for number in [base + CODE as u64, 0x40, 0] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 0x40, 0, 0x38, 0, 1, 0, 0x40, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // to be loaded, to be read and run
    for number in [0, base, base, size, size, 0x1_0000] {
        elf.extend(u64::to_le_bytes(number));
    }
    assert_eq!(elf.len(), CODE);
    elf.extend(body);
    elf
}

fn scene() -> Scene {
    let scene = Scene::new(Path::new(LIGHTER), "FROM scratch\nCOPY tool /tool\nRUN [\"/tool\"]\n");
    scene.file("tool", program());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scene.context().join("tool"), mode).unwrap();
    scene
}

/// Builds for arm64 where these interpreters are registered, and no others.
fn builds(scene: &Scene, register: &str) -> Output {
    let script = format!(
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && {register} && \
         exec \"$LIGHTER\" build --progress=plain --platform linux/arm64 -o type=local,dest=../tree ."
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir(scene.context());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", scene.path().join("home"));
    command.env("LIGHTER", LIGHTER).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_program_for_another_machine_runs_where_somebody_runs_it() {
    assert!(Path::new(QEMU).exists(), "{QEMU} is missing; install the package qemu-user-static");
    let scene = scene();
    // F: opened now, as there is no qemu in the image.
    let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    let register = format!("printf '%s' ':arm64:M::{magic}:{mask}:{QEMU}:F' > /proc/sys/fs/binfmt_misc/register");
    let output = builds(&scene, &register);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(scene.path().join("tree/made")).unwrap(), TEXT);
}

#[test]
fn a_program_for_another_machine_is_told_where_nobody_runs_it() {
    let output = builds(&scene(), "true");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "{told}");
    assert!(
        told.contains("Dockerfile:3")
            && told.contains("the program is for another machine: the kernel starts such programs with binfmt_misc")
            && told.contains("install qemu-user-static and binfmt-support"),
        "{told}"
    );
}
