//! Damaged updates between good ones: whatever they are, the service goes on, what is good is taken, and other documents
//! do not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engram_processors::collaboration::documents::DocumentsConfig;
use engram_processors::collaboration::{DOCUMENT_REJECTS, DOCUMENT_SEQUENCED};
use engram_schemas::document::{EditRejected, SequencedEdit};
use engram_schemas::yjs::{Coverage, Outline};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::bed::Bed;
use super::histories::{self, History};
use super::mutation::mutate;
use super::random_histories::compare;

/// Documents of one service: every second one gets damaged updates too.
const TOGETHER: usize = 200;
/// Damaged updates for each good one of such a document.
const DAMAGED: usize = 6;

#[derive(Default)]
struct Told {
    damaged: usize,
    taken: usize,
    causes: BTreeMap<String, usize>,
    quarantined: BTreeSet<String>,
    slowest: Duration,
}

#[test]
fn damaged_updates_harm_nothing() {
    let seed = super::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let wanted = super::count(100_000, 1_000_000);
    let histories = histories::make(1_600, seed, 0.0);
    let mut told = Told::default();
    for (number, together) in histories.chunks(TOGETHER).cycle().enumerate() {
        if told.damaged >= wanted {
            break;
        }
        play(together, number % 4 == 0, &mut random, &mut told);
    }
    let Told { damaged, taken, causes, quarantined, slowest } = told;
    println!("{damaged} damaged updates: {taken} are updates of something else, the others are refused: {causes:?}");
    println!("{} documents quarantined; the slowest batch of 50 edits took {slowest:?}", quarantined.len());
}

fn play(histories: &[History], is_replayed: bool, random: &mut StdRng, told: &mut Told) {
    let mut bed = Bed::new(DocumentsConfig {
        checkpoint_bytes: random.random_range(50..1_500),
        open_documents_max: random.random_range(1..TOGETHER),
        ..DocumentsConfig::default()
    });
    let names: Vec<String> = (0..histories.len()).map(|index| format!("document-{index}")).collect();
    let others: Vec<&Vec<u8>> = histories.iter().flat_map(|history| &history.updates).collect();
    let mut damaged = BTreeSet::new();
    let mut left: Vec<(usize, usize)> = (0..histories.len()).map(|index| (index, 0)).collect();
    while !left.is_empty() {
        let at = random.random_range(0..left.len());
        let (document, next) = left[at];
        let history = &histories[document];
        let Some(update) = history.updates.get(next) else {
            left.swap_remove(at);
            continue;
        };
        left[at].1 += 1;
        for _ in 0..if document % 2 == 0 { DAMAGED } else { 0 } {
            let base = if random.random() { update } else { history.updates.choose(random).expect("updates") };
            let bytes = mutate(base, others.choose(random).expect("updates"), random);
            damaged.insert(bed.write(&names[document], &bytes).to_string());
        }
        bed.write(&names[document], update);
        if random.random_bool(0.08) {
            let start = Instant::now();
            bed.process(random);
            told.slowest = told.slowest.max(start.elapsed());
        }
    }
    let states = bed.states();
    let sequenced = bed.read::<SequencedEdit>(DOCUMENT_SEQUENCED);
    let rejected = bed.read::<EditRejected>(DOCUMENT_REJECTS);
    told.damaged += damaged.len();
    told.taken += sequenced.iter().filter(|edit| damaged.contains(&edit.id)).count();
    for edit in rejected.iter().filter(|edit| damaged.contains(&edit.id)) {
        *told.causes.entry(edit.cause.clone()).or_default() += 1;
    }
    for (document, history) in histories.iter().enumerate() {
        let name = &names[document];
        let taken: Vec<&SequencedEdit> = sequenced.iter().filter(|edit| edit.document == *name).collect();
        let is_forged = taken.iter().any(|edit| damaged.contains(&edit.id));
        let refused: Vec<&EditRejected> =
            rejected.iter().filter(|edit| edit.document == *name && !damaged.contains(&edit.id)).collect();
        if refused.iter().any(|edit| edit.cause == "quarantined") {
            told.quarantined.insert(format!("{name}: {}", refused[0].detail));
        }
        if !is_forged {
            // Nothing else was taken, and so all that is good was. An edit may delete what another had deleted.
            assert!(refused.iter().all(|edit| edit.cause == "known"), "{refused:?}");
            if let Some(state) = states.get(name) {
                compare(history, state);
            }
            continue;
        }
        let state = &states[name];
        assert!(taken.iter().map(|edit| edit.seq).eq(1..=state.seq), "{name}: edits are numbered in their order");
        let coverage = covered(taken.iter().map(|edit| edit.update.as_slice()));
        assert!(covered([state.state.as_slice()]).clients().eq(coverage.clients()), "{name} has what was taken");
        // What is good is refused only where a damaged one has taken its place.
        let mut is_displaced = false;
        for edit in refused {
            is_displaced |= edit.cause != "known";
            let fits = ["known", "missing-causes", "malformed-update", "failed"].contains(&edit.cause.as_str());
            assert!(fits, "{name}, {}: {}, {}", edit.id, edit.cause, edit.detail);
        }
        for update in &history.updates {
            let outline = Outline::read(update).expect("an update");
            let whole = outline.structs.iter().all(|part| part.end() <= coverage.next(part.id.client));
            assert!(whole || is_displaced, "{name}: a good edit is not in it");
        }
    }
    if is_replayed {
        bed.replays();
    }
}

fn covered<'a>(updates: impl IntoIterator<Item = &'a [u8]>) -> Coverage {
    let mut coverage = Coverage::default();
    updates.into_iter().for_each(|update| coverage.add(&Outline::read(update).expect("an update")));
    coverage
}
