//! Real editing sessions, character by character, in the order in which they were made and in others.

use std::path::{Path, PathBuf};

use engram_processors::collaboration::DOCUMENT_REJECTS;
use engram_processors::collaboration::documents::DocumentsConfig;
use engram_schemas::document::EditRejected;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::bed::Bed;
use super::histories::{buffer, word};

/// Updates that may come in any order.
const WINDOW: usize = 8;
/// Updates after which what was refused is sent again.
const ROUND: usize = 1_000;

#[test]
fn editing_sessions_reach_their_ends() {
    let mut random = StdRng::seed_from_u64(super::seed());
    for trace in ["rustcode", "friendsforever", "clownschool"] {
        let Some((updates, text)) = read(trace) else { continue };
        let mut bed = Bed::new(DocumentsConfig::default());
        for round in updates.chunks(ROUND) {
            round.iter().for_each(|update| {
                bed.write("trace", update);
            });
            bed.commit();
        }
        assert_eq!(bed.read::<EditRejected>(DOCUMENT_REJECTS), []);
        finish(bed, trace, &text);

        let mut bed = Bed::new(DocumentsConfig::default());
        let resent = play_badly(&mut bed, &updates, &mut random);
        finish(bed, trace, &text);
        println!("{trace}: {} updates, {resent} sent again in the bad run", updates.len());
    }
}

fn finish(mut bed: Bed, trace: &str, text: &str) {
    let shown: serde_json::Value = serde_json::from_str(&bed.states()["trace"].roots).expect("JSON");
    assert!(shown["text"].as_str() == Some(text), "{trace} ends with another text");
    bed.replays();
}

/// Out of order, twice, torn, with a service that fails now and then.
fn play_badly(bed: &mut Bed, updates: &[Vec<u8>], random: &mut StdRng) -> usize {
    let mut written: Vec<Option<usize>> = Vec::new();
    let (mut seen, mut resent) = (0, 0);
    let mut order: Vec<usize> = (0..updates.len()).collect();
    order.chunks_mut(WINDOW).for_each(|window| window.shuffle(random));
    for round in order.chunks(ROUND) {
        let mut wanted = round.to_vec();
        while !wanted.is_empty() {
            for which in wanted {
                let update = &updates[which];
                bed.write("trace", update);
                written.push(Some(which));
                if random.random_bool(0.1) {
                    bed.write("trace", update);
                    written.push(Some(which));
                }
                if random.random_bool(0.05) {
                    bed.write("trace", &update[..random.random_range(0..update.len())]);
                    written.push(None);
                }
                if random.random_bool(0.005) {
                    bed.process(random);
                }
            }
            bed.commit();
            let rejected = bed.read::<EditRejected>(DOCUMENT_REJECTS);
            let of_causes = rejected[seen..].iter().filter(|edit| edit.cause == "missing-causes");
            let again = of_causes.filter_map(|edit| written[edit.id.parse::<usize>().expect("a number")]);
            wanted = again.collect();
            wanted.sort_unstable();
            wanted.dedup();
            resent += wanted.len();
            seen = rejected.len();
        }
    }
    resent
}

/// A trace as Yjs's updates, and the text that it ends with; `None`, and a line that says so, where the data are not there.
fn read(trace: &str) -> Option<(Vec<Vec<u8>>, String)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/editing-traces");
    let file = data.join(format!("{trace}.json.gz"));
    if !file.is_file() {
        println!("skipped: {} is not there", file.display());
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let made: PathBuf = folder.path().join(trace);
    let (file, path) = (file.to_str().expect("a path"), made.to_str().expect("a path"));
    super::node::run("trace.mjs", &["--trace", file, "--write-updates", path]);
    let bytes = std::fs::read(&made).expect("the file that was made");
    let mut rest = bytes.as_slice();
    let mut updates = Vec::new();
    while !rest.is_empty() {
        let _agent = word(&mut rest);
        updates.push(buffer(&mut rest).to_vec());
    }
    let text = std::fs::read_to_string(made.with_extension("txt")).expect("the text");
    Some((updates, text))
}
