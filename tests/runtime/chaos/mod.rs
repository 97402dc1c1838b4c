//! Rounds of chaos: an edit and a command, disturbed at random, and then one quiet `up -d` that must put all right.
//!
//! Everything random comes from a seed. The story of a round that fails is printed with what plays it again:
//!
//! | variable | meaning |
//! |---|---|
//! | `CHAOS_SEED` | a number; another seed is another test |
//! | `CHAOS_ROUNDS` | how many rounds; `scripts/chaos` plays many |
//! | `CHAOS_FIRST` | rounds before this one only lend their edits |

mod disturbance;
mod file;
mod judge;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::world::{Project, World};
use disturbance::{Disturbance, Undo};
use file::Stack;
use judge::Judge;

/// What is played where nobody asks for more: enough to meet every kind of disturbance.
const SEED: u64 = 7;
const ROUNDS: u64 = 10;
/// On a slow machine no round begins after this time.
const ENOUGH: Duration = Duration::from_secs(45);

/// Bytes of the disk that holds all state of compose, beside its copy of the program.
const DISK: u64 = 32 << 20;

/// Longest time that a command may take, however it is disturbed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Longest time from the beginning of a command to a disturbance, in milliseconds.
const LATEST: u64 = 1500;

fn variable<T: FromStr>(name: &str, default: T) -> T
where
    T::Err: fmt::Display,
{
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

/// What happened in a round; told if it does not end well.
struct Story {
    seed: u64,
    round: u64,
    begun: Instant,
    lines: Vec<String>,
}

impl Story {
    fn tell(&mut self, what: impl fmt::Display) {
        let at = self.begun.elapsed().as_millis();
        self.lines.push(format!("{at:>6} ms  {what}"));
    }
}

impl Drop for Story {
    #[expect(clippy::print_stderr, reason = "a failed test tells what it knows")]
    fn drop(&mut self) {
        if thread::panicking() {
            let Self { seed, round, .. } = self;
            eprintln!("--- round {round} ---\n{}", self.lines.join("\n"));
            let all = *round + 1;
            eprintln!("again: CHAOS_SEED={seed} CHAOS_FIRST={round} CHAOS_ROUNDS=1");
            eprintln!("or with all before it: CHAOS_SEED={seed} CHAOS_ROUNDS={all}");
        }
    }
}

/// The dice of a round: they do not depend on how the rounds before it went.
fn dice(seed: u64, round: u64) -> Rng {
    let mut rng = Rng::with_seed(seed);
    let salt = rng.u64(..);
    Rng::with_seed(salt ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One command of a round, as words for `compose`.
fn command(rng: &mut Rng, stack: &Stack) -> String {
    let service = stack.any_service(rng);
    match rng.u8(..16) {
        0..=4 => "up -d --remove-orphans".into(),
        5 => "up -d --force-recreate --remove-orphans".into(),
        6 => format!("up -d {service}"),
        7 => format!("up -d --scale web={}", rng.u32(..4)),
        8 => format!("scale web={}", rng.u32(..4)),
        9 => "down".into(),
        10 => "stop".into(),
        11 => format!("restart {service}"),
        12 => "restart".into(),
        13 => format!("rm -f -s {service}"),
        14 => format!("kill {service}"),
        _ => "up -d --live --remove-orphans".into(),
    }
}

/// A round: what is edited, what is run, what is done meanwhile and when.
struct Round {
    edits: Vec<String>,
    commands: Vec<String>,
    /// With the time since the beginning of the command.
    disturbances: Vec<(Duration, Disturbance)>,
    /// Everything is taken down and looked for leaks at the end.
    ends_clean: bool,
}

impl Round {
    fn new(rng: &mut Rng, stack: &mut Stack) -> Self {
        let edits = (0..rng.u8(..4)).map(|_| stack.edit(rng)).collect();
        let mut commands = vec![command(rng, stack)];
        if rng.u8(..4) == 0 {
            commands.push(command(rng, stack));
        }
        let mut disturbances: Vec<_> = (0..=rng.u8(..3))
            .map(|_| {
                let at = Duration::from_millis(rng.u64(..LATEST));
                (at, Disturbance::any(rng, stack))
            })
            .collect();
        disturbances.sort_by_key(|(at, _)| *at);
        Self {
            edits,
            commands,
            disturbances,
            ends_clean: rng.u8(..4) == 0,
        }
    }

    fn fills_disk(&self) -> bool {
        let mut disturbances = self.disturbances.iter();
        disturbances.any(|(_, disturbance)| matches!(disturbance, Disturbance::FullDisk { .. }))
    }
}

/// Plays one round in a world, up to the point where nothing disturbs any more.
fn play(world: &mut World, folder: &Path, round: &Round, story: &mut Story) {
    let mut commands = Vec::new();
    for words in &round.commands {
        story.tell(format_args!("$ compose {words}"));
        let project = world.project_in(folder);
        commands.push(project.command(words.split(' ')).within(PATIENCE).start());
    }
    let begun = Instant::now();
    let mut undo = Undo::default();
    for (at, disturbance) in &round.disturbances {
        undo.run_until(begun + *at, world, story);
        disturbance.happen(world, &mut undo, story);
    }
    undo.finish(world, story);
    for command in commands {
        let output = command.finish();
        let said = output.stderr.trim().lines().last().unwrap_or_default();
        story.tell(format_args!("{}: {said}", output.status));
        assert!(!output.stderr.contains("panicked at"), "{output}");
    }
    disturbance::settle(world, story);
}

fn up(project: &Project<'_>, story: &mut Story) {
    story.tell("$ compose up -d --remove-orphans, undisturbed");
    let up = project.command(["up", "-d", "--remove-orphans"]);
    let up = up.within(PATIENCE).run().success();
    story.tell(up);
}

#[test]
fn whatever_is_killed_one_up_puts_it_right() {
    World::run(|world| {
        let seed = variable("CHAOS_SEED", SEED);
        let first = variable("CHAOS_FIRST", 0);
        let asked = std::env::var_os("CHAOS_ROUNDS").is_some();
        let rounds = variable("CHAOS_ROUNDS", ROUNDS);
        let begun = Instant::now();
        world.import_image("default");
        let program = std::fs::metadata(env!("CARGO_BIN_EXE_compose")).unwrap();
        world.limit_state(DISK + program.len());
        let mut stack = Stack::default();
        let folder = world.project("chaos", &stack.text()).into_folder();
        let mut judge = Judge::default();
        for round in 0..first + rounds {
            let mut rng = dice(seed, round);
            let mut story = Story {
                seed,
                round,
                begun: Instant::now(),
                lines: Vec::new(),
            };
            if round == first {
                let project = world.project_in(&folder);
                project.write("compose.yaml", &stack.text());
                up(&project, &mut story);
                judge.converged(world, &project, &stack, &mut story);
            }
            let plan = Round::new(&mut rng, &mut stack);
            if round < first {
                continue;
            }
            for edit in &plan.edits {
                story.tell(format_args!("edit: {edit}"));
            }
            world
                .project_in(&folder)
                .write("compose.yaml", &stack.text());
            play(world, &folder, &plan, &mut story);
            judge.disk_was_full |= plan.fills_disk();
            let project = world.project_in(&folder);
            up(&project, &mut story);
            judge.converged(world, &project, &stack, &mut story);
            let is_last = round + 1 == first + rounds || !asked && begun.elapsed() > ENOUGH;
            if plan.ends_clean || is_last {
                story.tell("$ compose down -v");
                let _down = project.compose("down -v").success();
                world.assert_clean();
                judge.forget();
                if is_last {
                    break;
                }
                up(&project, &mut story);
                judge.converged(world, &project, &stack, &mut story);
            }
        }
    });
}
