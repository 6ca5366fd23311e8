//! Histories that Yjs has made, with what they come to: the layout is in `tests/clients/yjs/histories.mjs`.

/// Updates in an order in which a server could receive them, and what a `Y.Doc` holds after all of them.
pub struct History {
    /// Every update comes after all of its causes; otherwise only after those of its own client.
    pub is_causal: bool,
    pub updates: Vec<Vec<u8>>,
    pub result: serde_json::Value,
}

/// Reads all of a file.
pub fn read(bytes: &[u8]) -> Vec<History> {
    let mut rest = bytes.strip_prefix(b"ENGRAMH1").expect("a file of histories");
    let histories = (0..word(&mut rest)).map(|_| history(&mut rest)).collect();
    assert!(rest.is_empty(), "{} bytes follow the last history", rest.len());
    histories
}

fn history(rest: &mut &[u8]) -> History {
    let flags = rest.split_off_first().expect("flags");
    let updates = (0..word(rest)).map(|_| buffer(rest).to_vec()).collect();
    let result = serde_json::from_slice(buffer(rest)).expect("JSON");
    History { is_causal: flags & 1 != 0, updates, result }
}

pub fn word(rest: &mut &[u8]) -> u32 {
    let (word, left) = rest.split_first_chunk::<4>().expect("a number");
    *rest = left;
    u32::from_le_bytes(*word)
}

pub fn buffer<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let len = word(rest) as usize;
    rest.split_off(..len).expect("as many bytes as were announced")
}

/// Has Yjs make histories. `acausal` is the share of those in which updates may come before what they build on.
pub fn make(count: usize, seed: u64, acausal: f64) -> Vec<History> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("histories");
    let (count, seed, acausal) = (count.to_string(), seed.to_string(), acausal.to_string());
    let path = file.to_str().expect("a path in UTF-8");
    super::node::run(
        "histories.mjs",
        &["--out", path, "--count", &count, "--seed", &seed, "--acausal", &acausal, "--verify", "0.01"],
    );
    read(&std::fs::read(file).expect("the file that was made"))
}
