//! Mends a fault of librdkafka in the copy that is linked, until a release does.
//!
//! When a broker has come back and a partition has no leader yet, its answer to a fetch names leader -1. librdkafka counts
//! such a partition among those with a new leader, and then leaves it out of the list that it makes of them: the list's last
//! entries are uninitialized memory, which it takes for numbers of partitions. A negative one ends the process with SIGSEGV.
//! Source: <https://github.com/confluentinc/librdkafka/issues/5280>.
//!
//! `rdkafka_fetcher.c` is compiled once more with the line that is missing, and linked whole, before librdkafka's archive:
//! its symbols are there by then, so that the archive's own `rdkafka_fetcher.o` is not taken.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The end of the loop that fills the list, and what has to follow it.
const BEFORE: &str = "\
                                changed_partition++;
                        }
                        changed_topic++;
";
const AFTER: &str = "\
                                changed_partition++;
                        }
                        md->topics[changed_topic].partition_cnt = changed_partition;
                        changed_topic++;
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let built =
        PathBuf::from(env::var_os("DEP_RDKAFKA_ROOT").expect("librdkafka is built from its source")).join("build");
    let source = librdkafka(&built.join("CMakeCache.txt")).join("src");
    let text = fs::read_to_string(source.join("rdkafka_fetcher.c")).expect("librdkafka's source can be read");
    assert_eq!(
        text.matches(BEFORE).count(),
        1,
        "librdkafka's rdkafka_fetcher.c has changed: if issue 5280 is closed, pipeline/build.rs can go"
    );
    let mended = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("rdkafka_fetcher.c");
    fs::write(&mended, text.replace(BEFORE, AFTER)).expect("the build's folder can be written");
    cc::Build::new()
        .file(mended)
        .include(&source)
        .include(built.join("generated/dummy"))
        .define("LIBRDKAFKA_STATICLIB", None)
        .define("NDEBUG", None)
        .opt_level(3)
        .warnings(false)
        .link_lib_modifier("+whole-archive")
        .link_lib_modifier("-bundle")
        .compile("engram_rdkafka_fetcher");
}

/// Where the source lies that was built.
fn librdkafka(cache: &Path) -> PathBuf {
    let cache = fs::read_to_string(cache).expect("librdkafka was built by CMake");
    let home = cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    PathBuf::from(home.expect("CMake notes where the source is"))
}
