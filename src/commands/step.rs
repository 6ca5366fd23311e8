//! `engram step`: a task's past event by event, forwards and backwards, in the terminal or as JSON lines.

use std::collections::{BTreeSet, VecDeque};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::replay::{Moment, Walk};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Wrap};
use ratatui::{DefaultTerminal, Frame};
use serde_json::Value;

use super::stop_flag;
use crate::cli::{Global, StepThrough};
use crate::expression::Expression;
use crate::output::{self, Usage};
use crate::past::{PastService, explained};
use crate::queries;
use crate::steps::{self, Steps};
use crate::values::When;
use crate::wire::{Access, Connection};

/// Steps that can be gone back to.
const BEHIND_MAX: usize = 100_000;
/// How long a key is waited for before the stop flag is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Steps between two looks for a key that ends a search.
const SEARCHED: usize = 256;
/// Lines that a key scrolls.
const SCROLL: u16 = 10;
/// What a breakpoint's expression may name.
const STEP: &str = "step";

pub fn run(global: &Global, args: &StepThrough) -> anyhow::Result<()> {
    let breakpoints = Breakpoints::new(args)?;
    let stop = stop_flag()?;
    anyhow::ensure!(
        global.json || std::io::stdout().is_terminal(),
        Usage("it is shown in a terminal, and this is none: give --json for lines of JSON".to_owned())
    );
    let connection = Connection::open(global, Access::Read)?;
    let service = PastService::open(&connection, &args.service)?;
    let task = task(&service, args)?;
    let folder =
        tempfile::Builder::new().prefix("engram-step").tempdir().context("cannot create a temporary folder")?;
    let past = service.past(task);
    let from = args.from.as_ref().map(|when| service.moment(when));
    let start = from.as_ref().map_or(Ok(0), |from| past.commit_before(from)).map_err(explained)?;
    let to = args.to.as_ref().map(|when| service.moment(when));
    let end = to.as_ref().map_or(Ok(i64::MAX), |to| past.commit_before(to)).map_err(explained)?;
    if let (Some(Moment::Record(from, first)), Some(Moment::Record(to, last))) = (&from, &to) {
        anyhow::ensure!(from != to || first <= last, Usage("--to is before --from".to_owned()));
    }
    let walk = past.walk_to(start, &folder.path().join("store")).map_err(explained)?;
    let mut player = Player {
        walk,
        steps: Steps::new(&args.service, &connection.registry)?,
        key: args.key.clone(),
        from: from.as_ref().and_then(place),
        to: to.as_ref().and_then(place),
        end,
        ahead: VecDeque::new(),
        behind: VecDeque::new(),
        at: 0,
        is_over: false,
    };
    let mut any = false;
    if global.json {
        while !stop.load(Ordering::Relaxed) && player.forward()? {
            let mut step = player.current().expect("gone forward").clone();
            step["break"] = breakpoints.hit(&step)?.into();
            output::json(&step)?;
            player.forget();
            any = true;
        }
        anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped");
        anyhow::ensure!(any, "{}", player.nothing(task));
        return Ok(());
    }
    anyhow::ensure!(player.forward()?, "{}", player.nothing(task));
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let outcome = View { service: args.service.clone(), task, note: String::new(), scrolled: 0 }.run(
        &mut terminal,
        &mut player,
        &breakpoints,
        &stop,
    );
    ratatui::restore();
    outcome
}

fn task(service: &PastService<'_>, args: &StepThrough) -> anyhow::Result<i32> {
    let by_record = [&args.from, &args.to].into_iter().flatten().filter_map(|when| match when {
        When::Record { place, .. } => Some(place.partition),
        When::Time(_) => None,
    });
    let said: BTreeSet<i32> = args.task.into_iter().chain(by_record).collect();
    anyhow::ensure!(
        said.len() <= 1,
        Usage("--task, --from and --to are of different partitions: one task is gone through".to_owned())
    );
    let task = said.first().copied().or_else(|| {
        let key = args.key.as_ref()?;
        Some(partition_for(key.as_bytes(), service.partitions))
    });
    let task = match task {
        Some(task) => task,
        None if service.partitions == 1 => 0,
        None => anyhow::bail!(Usage(format!(
            "service {} has {} tasks: say which by --key, or --task",
            args.service, service.partitions
        ))),
    };
    anyhow::ensure!(
        (0..service.partitions).contains(&task),
        "service {} has {} tasks: there is no partition {task}",
        args.service,
        service.partitions
    );
    Ok(task)
}

/// A record, as steps name it.
fn place(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Time(_) => None,
        Moment::Record(partition, offset) => Some(format!("{partition}/{offset}")),
    }
}

/// Where to stop.
struct Breakpoints {
    at: Vec<When>,
    keys: Vec<String>,
    expressions: Vec<Expression>,
}

impl Breakpoints {
    fn new(args: &StepThrough) -> anyhow::Result<Self> {
        let parse = |text: &String| Expression::parse(text, &[STEP], false).map_err(Usage);
        let expressions = args.break_where.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { at: args.break_at.clone(), keys: args.break_keys.clone(), expressions })
    }

    fn are_none(&self) -> bool {
        self.at.is_empty() && self.keys.is_empty() && self.expressions.is_empty()
    }

    fn hit(&self, step: &Value) -> anyhow::Result<bool> {
        let record = step["record"]["place"].as_str();
        let is_there = |when: &When| match when {
            When::Time(ms) => step["committed"]
                .as_str()
                .and_then(|time| time.parse::<jiff::Timestamp>().ok())
                .is_some_and(|time| time.as_millisecond() >= *ms),
            When::Record { topic, place } => record.is_some_and(|record| match topic {
                Some(topic) => record == format!("{topic}/{}/{}", place.partition, place.offset),
                None => record.ends_with(&format!("/{}/{}", place.partition, place.offset)),
            }),
        };
        if self.at.iter().any(is_there) || self.keys.iter().any(|key| concerns(step, key)) {
            return Ok(true);
        }
        for expression in &self.expressions {
            if expression.holds(&[(STEP, step)], |_| Ok(Value::Null))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a step has to do with a key: of its record, of an entry that it has changed, or of an output.
fn concerns(step: &Value, key: &str) -> bool {
    let matches = |found: &Value| !found.is_null() && queries::matches(found, key);
    let any = |name: &str| step[name].as_array().into_iter().flatten().any(|item| matches(&item["key"]));
    matches(&step["record"]["key"]) || any("changes") || any("outputs")
}

/// The steps that are wanted, in both directions.
struct Player<'a> {
    walk: Walk<'a>,
    steps: Steps,
    key: Option<String>,
    /// Not before this record, and not after that one.
    from: Option<String>,
    to: Option<String>,
    /// The last commit that is wanted whole.
    end: i64,
    /// Of the commit that was run last.
    ahead: VecDeque<Value>,
    behind: VecDeque<Value>,
    /// Which of `behind` is shown, from 1.
    at: usize,
    is_over: bool,
}

impl Player<'_> {
    /// Why there is no step to be shown.
    fn nothing(&self, task: i32) -> String {
        match &self.key {
            Some(key) => {
                format!("no step of task {task} has to do with {key} there: give another --task, or other bounds")
            }
            None => format!("task {task} has no step there: give other bounds"),
        }
    }

    fn current(&self) -> Option<&Value> {
        self.behind.get(self.at.checked_sub(1)?)
    }

    fn forward(&mut self) -> anyhow::Result<bool> {
        if self.at == self.behind.len() {
            let Some(step) = self.next()? else { return Ok(false) };
            if self.behind.len() == BEHIND_MAX {
                self.behind.pop_front();
                self.at -= 1;
            }
            self.behind.push_back(step);
        }
        self.at += 1;
        Ok(true)
    }

    fn back(&mut self) -> bool {
        let can = self.at > 1;
        self.at -= usize::from(can);
        can
    }

    /// There is no way back from here.
    fn forget(&mut self) {
        self.behind.clear();
        self.at = 0;
    }

    fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            while let Some(step) = self.ahead.pop_front() {
                let place = step["record"]["place"].as_str();
                if self.from.as_deref().is_some_and(|from| place != Some(from)) {
                    continue;
                }
                self.from = None;
                if self.to.is_some() && self.to.as_deref() == place {
                    self.is_over = true;
                    self.ahead.clear();
                }
                if self.key.as_ref().is_none_or(|key| concerns(&step, key)) {
                    return Ok(Some(step));
                }
            }
            let last = self.end.saturating_add(i64::from(self.to.is_some()));
            let is_wanted = |sequence: i64| !self.is_over && sequence <= last;
            if !self.walk.next_commit().is_some_and(|commit| is_wanted(commit.manifest.sequence)) {
                return Ok(None);
            }
            let Some((commit, steps)) = self.walk.step_by_steps().map_err(explained)? else { return Ok(None) };
            for (number, step) in steps.iter().enumerate() {
                self.ahead.push_back(self.steps.show(&commit, number + 1, step)?);
            }
        }
    }
}

/// What is on the screen.
struct View {
    service: String,
    task: i32,
    note: String,
    /// Lines of the changes that are above the screen.
    scrolled: u16,
}

impl View {
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        player: &mut Player<'_>,
        breakpoints: &Breakpoints,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            terminal.draw(|frame| self.draw(frame, player.current(), player.at))?;
            if !event::poll(LOOK)? {
                continue;
            }
            let Event::Key(key) = event::read()? else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            self.note.clear();
            let scrolled = std::mem::take(&mut self.scrolled);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Right | KeyCode::Down | KeyCode::Enter | KeyCode::Char('n' | ' ') => {
                    let moved = player.forward()?;
                    self.note_unless(moved, "this is the last");
                }
                KeyCode::Left | KeyCode::Up | KeyCode::Char('p') => {
                    let moved = player.back();
                    self.note_unless(moved, "this is the first");
                }
                KeyCode::Char('c') => self.go(player, breakpoints, Player::forward, "no breakpoint until the end")?,
                KeyCode::Char('b') => {
                    self.go(player, breakpoints, |player| Ok(player.back()), "no breakpoint before this")?;
                }
                KeyCode::Home | KeyCode::Char('g') => while player.back() {},
                KeyCode::PageDown => self.scrolled = scrolled.saturating_add(SCROLL),
                KeyCode::PageUp => self.scrolled = scrolled.saturating_sub(SCROLL),
                _ => {}
            }
        }
        Ok(())
    }

    fn note_unless(&mut self, moved: bool, note: &str) {
        if !moved {
            note.clone_into(&mut self.note);
        }
    }

    /// Goes on until a breakpoint.
    fn go<'a>(
        &mut self,
        player: &mut Player<'a>,
        breakpoints: &Breakpoints,
        step: impl Fn(&mut Player<'a>) -> anyhow::Result<bool>,
        none: &str,
    ) -> anyhow::Result<()> {
        if breakpoints.are_none() {
            "there are no breakpoints: see --break-at, --break-key and --break-where".clone_into(&mut self.note);
            return Ok(());
        }
        let mut searched = 0_usize;
        while step(player)? {
            if player.current().map_or(Ok(false), |step| breakpoints.hit(step))? {
                return Ok(());
            }
            searched += 1;
            if searched.is_multiple_of(SEARCHED) && event::poll(Duration::ZERO)? {
                "stopped at a key".clone_into(&mut self.note);
                return Ok(());
            }
        }
        none.clone_into(&mut self.note);
        Ok(())
    }

    fn draw(&self, frame: &mut Frame<'_>, step: Option<&Value>, number: usize) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(4), Constraint::Min(3), Constraint::Length(1)]).areas(frame.area());
        let nothing = Value::Null;
        let shown = step.unwrap_or(&nothing);
        let title = format!(
            " {} task {}, step {number}: commit {} at {} ",
            self.service,
            self.task,
            shown["commit"],
            shown["committed"].as_str().unwrap_or("-")
        );
        let what = if step.is_some() { steps::line(shown) } else { "there is no such step".to_owned() };
        frame
            .render_widget(Paragraph::new(what).wrap(Wrap { trim: false }).block(Block::bordered().title(title)), head);
        let lines: Vec<Line<'_>> = steps::diff(shown).into_iter().map(colored).collect();
        let changes = Block::bordered().title(" state before (-) and after (+), outputs (=>) ");
        let lines = Paragraph::new(Text::from(lines)).wrap(Wrap { trim: false }).scroll((self.scrolled, 0));
        frame.render_widget(lines.block(changes), body);
        let help = "→ next  ← previous  c to the next breakpoint  b back to one  g first  PgDn PgUp scroll  q quit";
        let foot_line = if self.note.is_empty() { help.dim() } else { self.note.clone().yellow() };
        frame.render_widget(Line::from(foot_line), foot);
    }
}

fn colored(line: String) -> Line<'static> {
    let color = match line.trim_start().chars().next() {
        Some('-') => Some(Color::Red),
        Some('+') => Some(Color::Green),
        Some('=') => Some(Color::Cyan),
        Some('!') => Some(Color::Yellow),
        _ => None,
    };
    match color {
        Some(color) => Line::styled(line, Style::new().fg(color)),
        None => Line::from(line),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_drawn() {
        let step = json!({
            "task": 1, "commit": 7, "committed": "2026-01-01T00:00:00Z", "number": 3, "cause": "record",
            "record": {"place": "in/1/42", "key": "ada", "value": {"n": 1}},
            "changes": [{"store": "counts", "key": "ada", "before": 1, "after": 2}],
            "outputs": [{"topic": "out", "key": "ada", "value": 2}],
        });
        let mut terminal = Terminal::new(TestBackend::new(110, 14)).expect("a screen");
        let view = View { service: "counting".to_owned(), task: 1, note: String::new(), scrolled: 0 };
        terminal.draw(|frame| view.draw(frame, Some(&step), 5)).expect("drawn");
        let screen = terminal.backend().to_string();
        for part in
            ["counting task 1, step 5: commit 7", "in/1/42 key \"ada\"", "- 1", "+ 2", "=> out \"ada\" 2", "q quit"]
        {
            assert!(screen.contains(part), "{part}:\n{screen}");
        }
        terminal.draw(|frame| view.draw(frame, None, 0)).expect("drawn");
        assert!(terminal.backend().to_string().contains("there is no such step"));
    }
}
