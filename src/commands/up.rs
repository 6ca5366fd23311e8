//! `engram up`: runs services and the HTTP interface until it is stopped or, with `--exit-when-idle`, has caught up.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use engram_connectors::gateway::{self, Gateway, Threads};
use engram_connectors::http::{self, AnswerStores, Peers, Served};
use engram_pipeline::clock::Clock;
use engram_pipeline::directory::{About, Announcer, Directory};
use engram_pipeline::progress::Restoring;
use engram_pipeline::service::{self, Running};
use engram_pipeline::standby::{Standby, StandbyOptions};
use engram_pipeline::status::Snapshot;
use engram_pipeline::store::Budget;
use engram_pipeline::worker::WorkerOptions;
use engram_processors::collaboration;
use engram_schemas::operations::WorkerTasks;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{lock, stop_flag};
use crate::cli::{Global, Up};
use crate::documents::Documents;
use crate::histories::Histories;
use crate::output::Usage;
use crate::queries::Queries;
use crate::wire::{self, Access, Connection};

/// How often the services are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long the services may take for their last commit.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How long everything else may take after that.
const END_MAX: Duration = Duration::from_secs(30);
/// How often standbys ask which processes there are.
const INSTANCES_FRESH: Duration = Duration::from_secs(5);
/// How long the requests of others may still take once the services have stopped.
const REQUESTS_END: Duration = Duration::from_secs(10);
/// How often Prometheus' histograms are drained, so that they stay small.
const UPKEEP_LOOKS: u32 = 100;

pub fn run(global: &Global, args: &Up) -> anyhow::Result<()> {
    let names = service_names(args)?;
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0])?
        .install_recorder()
        .context("cannot collect metrics")?;
    // The folder first: another process that runs on it is the likeliest trouble, and the easiest to tell.
    let held = crate::data_dir::DataDir::new(&global.data).hold()?;
    let connection = Arc::new(Connection::open(global, Access::Held)?);
    // From here on; until then a signal simply ends the process.
    let stop = stop_flag()?;
    let services: Arc<Mutex<Vec<Running>>> = Arc::default();
    let token = format!("{:032x}", rand::random::<u128>());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (log, registry) = (Arc::clone(&connection.log), Arc::clone(&connection.registry));
    let directory = Arc::new(Directory::new(log, registry, Clock::default()));
    let documents = Arc::new(Documents {
        connection: Arc::clone(&connection),
        services: Arc::clone(&services),
        directory: Arc::clone(&directory),
        instance: connection.data.instance()?,
        secret: connection.config.http.secret()?,
        stop: Arc::clone(&stop),
    });
    let served = served(&documents, &metrics, token.clone())?;
    let bound = runtime
        .block_on(http::bind(args.http))
        .with_context(|| format!("cannot listen on {}: give another address with --http", args.http))?;
    let gateway = gateway(&documents, &served.stores, bound.address, runtime.handle())?;
    let (gateway, threads) = gateway.unzip();
    let _entered = runtime.enter();
    let server = http::serve(bound, served, gateway.clone());
    connection.data.write_run_file(server.address, &token)?;
    let mut announcer = None;
    let mut outcome = names.iter().try_for_each(|name| {
        let running = start(&connection, &directory, args, name)?;
        lock(&services).push(running);
        anyhow::Ok(())
    });
    outcome = outcome.and_then(|()| {
        announcer = announce(global, &connection, args, server.address, &services)?;
        Ok(())
    });
    if outcome.is_ok() {
        crate::output::say(format_args!(
            "engram is up: http://{} ({}); stop with Ctrl-C",
            server.address,
            offers(gateway.as_deref())
        ));
        watch(args, &stop, &services, &metrics);
    }
    let running: Vec<Running> = lock(&services).drain(..).collect();
    running.iter().for_each(Running::ask_to_stop);
    give_up_if_they_hang(&running);
    for running in running {
        let name = running.name();
        let stopped = running.stop().with_context(|| format!("service {name} has stopped"));
        if let Err(error) = &stopped {
            // Now, since what follows may have to wait for the log.
            tracing::error!(service = name, error = crate::output::one_line(&**error), "a service has failed");
        }
        outcome = outcome.and(stopped);
    }
    give_up_later();
    if let Some(announcer) = announcer {
        announcer.stop();
    }
    if let Some(gateway) = &gateway {
        gateway.stop();
    }
    // Requests that are at work get their answers; the folder is given back after the log.
    if runtime.block_on(async { tokio::time::timeout(REQUESTS_END, server.stop()).await }).is_err() {
        tracing::warn!("some requests did not end in time");
    }
    // The last sessions and streams go with it, and then what they have left to be written is written.
    drop(gateway);
    drop(_entered);
    drop(runtime);
    if let Some(threads) = threads {
        threads.stop();
    }
    drop(documents);
    drop(connection);
    drop(held);
    outcome
}

/// The gateway, where it may listen.
fn gateway(
    documents: &Arc<Documents>,
    stores: &AnswerStores,
    address: SocketAddr,
    runtime: &Handle,
) -> anyhow::Result<Option<(Arc<Gateway>, Threads)>> {
    let connection = &documents.connection;
    let auth = &connection.config.auth;
    if auth.is_open() && !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "{address} can be reached by others, and no [auth] is configured: editors and programs are not served there"
        );
        return Ok(None);
    }
    let service = wire::service_on(connection, collaboration::NAME)?;
    service::prepare_topics(&*connection.log, &service, connection.config.partitions.0)?;
    let (loads, shows) = (Arc::clone(documents), Arc::clone(documents));
    let options = gateway::Options {
        log: Arc::clone(&connection.log),
        registry: Arc::clone(&connection.registry),
        clock: Clock::default(),
        auth: auth.clone(),
        limits: connection.config.gateway.clone(),
        spool: connection.data.path().join("gateway").join("spool"),
        load: Arc::new(move |key| loads.load(key).map_err(|error| format!("{error:#}"))),
        document_at: Arc::new(move |key, at| shows.at(key, at)),
        histories: Arc::new(Histories { connection: Arc::clone(connection), stop: Arc::clone(&documents.stop) }),
        stores: Arc::clone(stores),
    };
    Ok(Some(Gateway::start(options, runtime.clone())?))
}

/// What is at the address.
fn offers(gateway: Option<&Gateway>) -> &'static str {
    match gateway {
        None => "schemas, metrics, health",
        Some(gateway) if gateway.is_open() => {
            "editors and programs of this machine, all as owners; schemas, metrics, health"
        }
        Some(_) => "editors and programs with a token; schemas, metrics, health",
    }
}

/// Ends the process if what is left of an orderly end does not come to one: it waits for the log, too. Nothing is lost.
fn give_up_later() {
    std::thread::spawn(|| {
        std::thread::sleep(END_MAX);
        crate::output::say(format_args!(
            "engram: did not end within {} s: is the log out of reach? What was not committed is processed again after the \
             next start",
            END_MAX.as_secs()
        ));
        signal_hook::low_level::exit(i32::from(crate::FAILED));
    });
}

/// Waits until all workers have ended; ends the process if they do not. They wait for the log, then, and so would everything
/// that an orderly end gives back. Nothing is lost: stores take only what was committed.
fn give_up_if_they_hang(running: &[Running]) {
    let deadline = Instant::now() + STOP_MAX;
    while !running.iter().all(Running::has_ended) {
        if Instant::now() >= deadline {
            let names: Vec<&str> = running.iter().filter(|service| !service.has_ended()).map(Running::name).collect();
            crate::output::say(format_args!(
                "engram: no last commit within {} s by {}: is the log out of reach? What was not committed is processed again \
                 after the next start",
                STOP_MAX.as_secs(),
                names.join(", ")
            ));
            // At once: exit handlers of the libraries would meet their threads at work.
            signal_hook::low_level::exit(i32::from(crate::FAILED));
        }
        std::thread::sleep(LOOK);
    }
}

fn service_names(args: &Up) -> anyhow::Result<BTreeSet<String>> {
    if args.services.is_empty() {
        return Ok(wire::SERVICES.iter().map(|name| (*name).to_owned()).collect());
    }
    for name in &args.services {
        wire::stores(name).map_err(|error| Usage(error.to_string()))?;
    }
    Ok(args.services.iter().cloned().collect())
}

fn start(connection: &Connection, directory: &Arc<Directory>, args: &Up, name: &str) -> anyhow::Result<Running> {
    let service = Arc::new(wire::service_on(connection, name)?);
    service::prepare_topics(&*connection.log, &service, connection.config.partitions.0)?;
    let memory = &connection.config.memory;
    let budget = Arc::new(Budget::new(memory.stores_mib << 20));
    let snapshots = connection.snapshots(name)?.map(Arc::new);
    let instance = connection.data.instance()?;
    let replicas = connection.config.standby.replicas;
    let standby = StandbyOptions {
        service: service.name,
        log: Arc::clone(&connection.log),
        clock: Clock::default(),
        budget: Arc::clone(&budget),
        stores: connection.stores(name)?,
        snapshots: snapshots.clone(),
        replicas,
        instance: instance.clone(),
        instances: live_instances(directory, service.name),
    };
    // On the embedded log there is nobody to take over from.
    let standby = (replicas > 0 && connection.owned.is_none()).then(|| Standby::start(standby)).transpose()?;
    let (log, registry) = (Arc::clone(&connection.log), Arc::clone(&connection.registry));
    let options = WorkerOptions {
        budget,
        cache_bytes_max: memory.store_cache_mib << 20,
        snapshots,
        standby: standby.map(Arc::new),
        instance,
        static_membership: connection.config.kafka.static_membership,
        commit: connection.config.commit_options_of(name)?,
        ..WorkerOptions::new(service, log, registry, connection.stores(name)?)
    };
    Ok(Running::start(&options, usize::from(args.workers))?)
}

/// The processes that run a service, as they announce themselves.
fn live_instances(directory: &Arc<Directory>, service: &'static str) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    let directory = Arc::clone(directory);
    Arc::new(move || {
        let Ok(view) = directory.view(INSTANCES_FRESH) else { return Vec::new() };
        let own = view.instances.iter().filter(|found| found.service == service);
        own.map(|found| found.instance.clone()).collect()
    })
}

/// Returns when there is a reason to stop.
fn watch(args: &Up, stop: &AtomicBool, services: &Mutex<Vec<Running>>, metrics: &PrometheusHandle) {
    let mut looks = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(UPKEEP_LOOKS) {
            metrics.run_upkeep();
        }
        let services = lock(services);
        if services.iter().any(Running::has_failed) {
            return;
        }
        let idle_ms =
            args.exit_when_idle.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000));
        if idle_ms.is_some_and(|idle_ms| services.iter().all(|service| service.is_idle(idle_ms))) {
            return;
        }
    }
}

fn served(documents: &Arc<Documents>, metrics: &PrometheusHandle, token: String) -> anyhow::Result<Served> {
    let Documents { connection, services, directory, instance, secret, .. } = &**documents;
    let (metrics, shown, looked_at) = (metrics.clone(), Arc::clone(services), Arc::clone(services));
    let copied = Arc::clone(services);
    let queries = Queries {
        services: Arc::clone(services),
        directory: Arc::clone(directory),
        instance: instance.clone(),
        secret: secret.clone(),
    };
    let own = Arc::clone(documents);
    let peers = match secret {
        Some(secret) => Peers::WithSecret(secret.clone()),
        None if connection.config.auth.is_open() => Peers::Anybody,
        None => Peers::Nobody,
    };
    Ok(Served {
        peers,
        document: Arc::new(move |key| match own.own(key) {
            Ok(Some(state)) => Ok(state),
            Ok(None) => Err("its task is not here".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }),
        registry: Arc::clone(&connection.registry),
        log: connection.owned.clone(),
        token,
        metrics: Arc::new(move || metrics.render()),
        services: Arc::new(move || lock(&shown).iter().map(describe).collect()),
        stores: Arc::new(move |query| queries.answer(query)),
        snapshot: Arc::new(move |name| {
            let snapshots = {
                let services = lock(&copied);
                let service = services.iter().find(|service| service.name() == name);
                let service = service.ok_or_else(|| format!("service {name} does not run here"))?;
                Arc::clone(service.snapshots().ok_or("snapshots.url is \"none\": give another in the configuration")?)
            };
            super::snapshot::take_all(&snapshots).map_err(|error| crate::output::one_line(&*error))
        }),
        healthy: Arc::new(move || {
            let workers: Vec<Snapshot> = lock(&looked_at).iter().flat_map(Running::workers).collect();
            !workers.is_empty() && workers.iter().all(|worker| worker.trouble.is_none())
        }),
    })
}

/// Tells the others of this process. On the embedded log there are none.
fn announce(
    global: &Global,
    connection: &Connection,
    args: &Up,
    address: SocketAddr,
    services: &Arc<Mutex<Vec<Running>>>,
) -> anyhow::Result<Option<Announcer>> {
    if global.brokers.is_none() {
        return Ok(None);
    }
    let advertised = args.advertise.clone().or_else(|| connection.config.http.advertise.clone());
    let http = advertised.or_else(|| (!address.ip().is_unspecified()).then(|| address.to_string()));
    if http.is_none() {
        tracing::warn!(
            "{address} is no address for others: give one with --advertise, so that they can ask this process"
        );
    }
    let shown = Arc::clone(services);
    let holds = move || lock(&shown).iter().map(|service| (service.name().to_owned(), holdings(service))).collect();
    let about = About { instance: connection.data.instance()?, http, services: Arc::new(holds) };
    Ok(Some(Announcer::start(&connection.log, &*connection.registry, Clock::default(), about)?))
}

/// What a service's workers hold. Its standbys are the process's own, and told with the first worker.
fn holdings(service: &Running) -> Vec<WorkerTasks> {
    let worker = |worker: Snapshot| WorkerTasks { tasks: worker.tasks, standbys: Vec::new() };
    let mut workers: Vec<WorkerTasks> = service.workers().into_iter().map(worker).collect();
    if let Some(first) = workers.first_mut() {
        first.standbys = service.standby().into_iter().map(|warm| warm.task).collect();
    }
    workers
}

fn describe(service: &Running) -> Value {
    let workers = service.workers().into_iter().map(|worker| {
        json!({
            "tasks": worker.tasks, "records": worker.records, "restored_records": worker.restored_records,
            "restoring": worker.restoring.iter().map(restoring).collect::<Vec<_>>(),
            "commits": worker.commits, "idle_ms": worker.idle_ms, "trouble": worker.trouble
        })
    });
    let standby = service
        .standby()
        .into_iter()
        .map(|warm| json!({"task": warm.task, "changelog_position": warm.position, "behind": warm.behind}));
    json!({
        "service": service.name(), "workers": workers.collect::<Vec<_>>(), "standby": standby.collect::<Vec<_>>()
    })
}

fn restoring(task: &Restoring) -> Value {
    json!({
        "task": task.task, "from": task.phase.name(), "percent": (task.percent * 10.0).round() / 10.0,
        "bytes": task.bytes, "bytes_total": task.bytes_total, "records": task.records
    })
}
