//! The embedded PTX is what the sources give, no kernel spills, and nothing in it is fused. Needs NVRTC and ptxas, of which
//! NVIDIA has wheels; no GPU.

use std::path::Path;
use std::process::Command;

use engram_models::gpu::kernels;

#[test]
fn the_embedded_ptx_is_what_the_sources_give() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let python = folder.join(".venv/bin/python");
    if !folder.join(".venv/.done").exists() {
        println!("skipped: {} is not there: `make kernels` installs the compiler", python.display());
        return;
    }
    let made = tempfile::tempdir().expect("a temporary folder");
    let result =
        Command::new(python).arg(folder.join("compile.py")).arg(made.path()).output().expect("compile.py runs");
    let (said, complaint) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    // It fails on spills, and on sources that do not compile.
    assert!(result.status.success(), "compile.py failed:\n{said}{complaint}");
    for ptx in kernels::ALL {
        let made = std::fs::read_to_string(made.path().join(format!("{}.ptx", ptx.name))).expect("PTX of every source");
        assert!(made == ptx.text, "{}.ptx is not what its source gives: run `make kernels` and commit it", ptx.name);
        for kernel in ptx.kernels {
            assert!(said.contains(&format!("{kernel} ")), "ptxas says nothing of {kernel}:\n{said}");
        }
    }
    let sources = std::fs::read_dir(&folder).expect("the folder").filter_map(Result::ok);
    let count = sources.filter(|file| file.path().extension().is_some_and(|extension| extension == "cu")).count();
    assert_eq!(count, kernels::ALL.len(), "a source that nothing embeds");
}

#[test]
fn nothing_is_fused_or_approximate() {
    for ptx in kernels::ALL {
        for line in ptx.text.lines() {
            let is_exact =
                !["fma.", "mad.f", "mad.rn", ".approx", ".ftz", "div.full"].iter().any(|word| line.contains(word));
            assert!(is_exact, "{}: {line}", ptx.name);
        }
        for kernel in ptx.kernels {
            assert!(ptx.text.contains(&format!(".visible .entry {kernel}(")), "{kernel} is not exported");
        }
    }
}
