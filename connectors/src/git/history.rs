//! The graph of commits, and the one order in which a repository is ingested: parents before children, and among those
//! whose parents have all come, by author time and then by id.
//!
//! It holds ids, times and parents (about 100 bytes a commit), never trees or messages.
//!
//! INVARIANT: the order of a walk depends on nothing but its set of commits, so that "the first N of the walk" means the
//! same after a restart.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use gix::ObjectId;

/// A commit's place in the history.
pub type Node = u32;

/// All commits that can be reached from the tips that were added.
#[derive(Default)]
pub struct History {
    ids: Vec<ObjectId>,
    /// Author times, ms; grows with `parents_end`, behind `ids`.
    times_ms: Vec<i64>,
    /// The parents of all nodes, one node after the other; those of a node end at its `parents_end`.
    parents: Vec<Node>,
    parents_end: Vec<usize>,
    nodes: HashMap<ObjectId, Node>,
}

impl History {
    /// Adds a commit and all its ancestors; `read` tells a commit's author time (ms) and its parents. After an error the
    /// history is of no use any more.
    pub fn add<E>(
        &mut self,
        tip: ObjectId,
        mut read: impl FnMut(&ObjectId) -> Result<(i64, Vec<ObjectId>), E>,
    ) -> Result<Node, E> {
        let node = self.node(tip);
        // The nodes themselves are the queue: each is read in its turn, and appends those of its parents that are new.
        while self.times_ms.len() < self.ids.len() {
            let (time_ms, parents) = read(&self.ids[self.times_ms.len()])?;
            self.times_ms.push(time_ms);
            for parent in parents {
                let parent = self.node(parent);
                self.parents.push(parent);
            }
            self.parents_end.push(self.parents.len());
        }
        Ok(node)
    }

    fn node(&mut self, id: ObjectId) -> Node {
        *self.nodes.entry(id).or_insert_with(|| {
            self.ids.push(id);
            Node::try_from(self.ids.len() - 1).expect("no repository has 4 billion commits")
        })
    }

    pub fn id(&self, node: Node) -> ObjectId {
        self.ids[node as usize]
    }

    /// Whether a commit was reached.
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.nodes.contains_key(id)
    }

    pub fn parents(&self, node: Node) -> &[Node] {
        let node = node as usize;
        let start = if node == 0 { 0 } else { self.parents_end[node - 1] };
        &self.parents[start..self.parents_end[node]]
    }

    /// The commit without parents that comes first by author time and id.
    pub fn oldest_root(&self) -> Option<ObjectId> {
        let nodes = 0..self.ids.len() as Node;
        let roots = nodes.filter(|&node| self.parents(node).is_empty());
        roots.map(|node| (self.times_ms[node as usize], self.id(node))).min().map(|(_, id)| id)
    }

    /// The commits that can be reached from `tips` and not from `hidden` (`git rev-list TIPS --not HIDDEN`), in order.
    pub fn walk(&self, tips: &[Node], hidden: &[Node]) -> Vec<Node> {
        let mut seen = vec![false; self.ids.len()];
        self.reach(hidden, &mut seen);
        let wanted = self.reach(tips, &mut seen);

        // For each wanted commit, how many of its parents have not come yet, and where its children are listed.
        let place: HashMap<Node, usize> = wanted.iter().enumerate().map(|(place, &node)| (node, place)).collect();
        let mut waiting = vec![0_u32; wanted.len()];
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); wanted.len()];
        for (child, &node) in wanted.iter().enumerate() {
            for parent in self.parents(node).iter().filter_map(|parent| place.get(parent)) {
                children[*parent].push(child);
                waiting[child] += 1;
            }
        }
        let key = |place: usize| {
            let node = wanted[place];
            Reverse((self.times_ms[node as usize], self.id(node), place))
        };
        let mut ready: BinaryHeap<_> = (0..wanted.len()).filter(|&place| waiting[place] == 0).map(key).collect();
        let mut order = Vec::with_capacity(wanted.len());
        while let Some(Reverse((_, _, place))) = ready.pop() {
            order.push(wanted[place]);
            for &child in &children[place] {
                waiting[child] -= 1;
                if waiting[child] == 0 {
                    ready.push(key(child));
                }
            }
        }
        assert_eq!(order.len(), wanted.len(), "a commit's id covers its parents, so there are no cycles");
        order
    }

    /// The first parents of `tip` and itself, oldest first, without what can be reached from `hidden`
    /// (`git rev-list --first-parent --reverse TIP --not HIDDEN`).
    pub fn line(&self, tip: Node, hidden: &[Node]) -> Vec<Node> {
        let mut seen = vec![false; self.ids.len()];
        self.reach(hidden, &mut seen);
        let first_parent = |&node: &Node| self.parents(node).first().copied();
        let mut line: Vec<Node> =
            std::iter::successors(Some(tip), first_parent).take_while(|&node| !seen[node as usize]).collect();
        line.reverse();
        line
    }

    /// Those of the commits that cannot be reached from the others, each once.
    pub fn heads(&self, nodes: &[Node]) -> Vec<Node> {
        let mut heads = nodes.to_vec();
        heads.sort_unstable();
        heads.dedup();
        let mut index = 0;
        while index < heads.len() {
            let head = heads.remove(index);
            let mut seen = vec![false; self.ids.len()];
            self.reach(&heads, &mut seen);
            if !seen[head as usize] {
                heads.insert(index, head);
                index += 1;
            }
        }
        heads
    }

    /// Marks all that can be reached from `tips` through commits not yet seen, and returns it.
    fn reach(&self, tips: &[Node], seen: &mut [bool]) -> Vec<Node> {
        let mut reached = Vec::new();
        let mut next = 0;
        let mut visit = |node: Node, reached: &mut Vec<Node>| {
            if !std::mem::replace(&mut seen[node as usize], true) {
                reached.push(node);
            }
        };
        tips.iter().for_each(|&tip| visit(tip, &mut reached));
        while next < reached.len() {
            self.parents(reached[next]).iter().for_each(|&parent| visit(parent, &mut reached));
            next += 1;
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[number; 20])
    }

    /// (number, author time, parents); the tips are those that are nobody's parent.
    fn history(commits: &[(u8, i64, &[u8])]) -> History {
        let mut history = History::default();
        for (tip, ..) in commits {
            let read = |wanted: &ObjectId| {
                let (_, time, parents) = commits.iter().find(|(number, ..)| id(*number) == *wanted).ok_or(())?;
                Ok::<_, ()>((*time, parents.iter().map(|&parent| id(parent)).collect()))
            };
            history.add(id(*tip), read).expect("all parents are there");
        }
        history
    }

    fn walk(history: &History, tips: &[u8], hidden: &[u8]) -> Vec<u8> {
        let nodes = |numbers: &[u8]| numbers.iter().map(|&number| history.nodes[&id(number)]).collect::<Vec<_>>();
        history.walk(&nodes(tips), &nodes(hidden)).into_iter().map(|node| history.id(node).as_bytes()[0]).collect()
    }

    /// 1 - 2 - 4 - 6 (an octopus of 4, 3, 5), where 3 is older than its parent, and 4 and 5 are of one time.
    const COMMITS: &[(u8, i64, &[u8])] =
        &[(1, 50, &[]), (2, 60, &[1]), (3, 10, &[1]), (5, 70, &[2]), (4, 70, &[2]), (6, 20, &[4, 3, 5]), (7, 40, &[])];

    #[test]
    fn parents_come_before_children_then_by_time_then_by_id() {
        let history = history(COMMITS);
        assert_eq!(walk(&history, &[6], &[]), [1, 3, 2, 4, 5, 6]);
        assert_eq!(walk(&history, &[6, 7], &[]), [7, 1, 3, 2, 4, 5, 6]);
        assert_eq!(history.oldest_root(), Some(id(7)));
    }

    #[test]
    fn the_order_does_not_depend_on_how_the_history_was_found() {
        let mut reversed = COMMITS.to_vec();
        reversed.reverse();
        assert_eq!(walk(&history(&reversed), &[6, 7], &[]), walk(&history(COMMITS), &[7, 6], &[]));
    }

    #[test]
    fn what_can_be_reached_from_the_hidden_is_left_out() {
        let history = history(COMMITS);
        assert_eq!(walk(&history, &[6], &[2]), [3, 4, 5, 6]);
        assert_eq!(walk(&history, &[6], &[4, 3]), [5, 6]);
        assert_eq!(walk(&history, &[2], &[6]), [0_u8; 0]);
        assert_eq!(walk(&history, &[6], &[6]), [0_u8; 0]);
    }

    #[test]
    fn a_line_is_of_first_parents() {
        let history = history(COMMITS);
        let node = |number: u8| history.nodes[&id(number)];
        let line = |tip: u8, hidden: &[u8]| -> Vec<u8> {
            let hidden: Vec<Node> = hidden.iter().map(|&number| node(number)).collect();
            history.line(node(tip), &hidden).into_iter().map(|node| history.id(node).as_bytes()[0]).collect()
        };
        assert_eq!(line(6, &[]), [1, 2, 4, 6]);
        assert_eq!(line(6, &[2]), [4, 6]);
        assert_eq!(line(6, &[5]), [4, 6]);
        assert_eq!(line(3, &[6]), [0_u8; 0]);
    }

    #[test]
    fn heads_are_what_no_other_reaches() {
        let history = history(COMMITS);
        let node = |number: u8| history.nodes[&id(number)];
        let heads = |numbers: &[u8]| {
            let heads = history.heads(&numbers.iter().map(|&number| node(number)).collect::<Vec<_>>());
            let mut heads: Vec<u8> = heads.into_iter().map(|head| history.id(head).as_bytes()[0]).collect();
            heads.sort_unstable();
            heads
        };
        assert_eq!(heads(&[4, 2, 4, 1]), [4]);
        assert_eq!(heads(&[4, 5, 7]), [4, 5, 7]);
        assert_eq!(heads(&[3, 6, 7]), [6, 7]);
        assert_eq!(heads(&[]), [0_u8; 0]);
    }
}
