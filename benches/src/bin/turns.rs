//! turns SIZE DESTINATIONS PORTS TURNS: runs that many turns, for a profiler.
use benches::{Loom, Shape};

fn main() {
    let arg = |n: usize, default: usize| std::env::args().nth(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let shape = Shape { destinations: arg(2, 1), ports: arg(3, 2), ..Shape::plain(arg(1, 60)) };
    let turns = arg(4, 1000);
    let mut loom = Loom::new(shape);
    let start = std::time::Instant::now();
    let frames: usize = (0..turns).map(|_| loom.turn()).sum();
    let elapsed = start.elapsed();
    let ns = elapsed.as_nanos() as f64 / frames.max(1) as f64;
    println!("{frames} frames, {ns:.1} ns each, accounted: {:?}", loom.delivered());
}
