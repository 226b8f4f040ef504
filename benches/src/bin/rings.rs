//! rings SIZE TURNS MACS|vmxnet3 BUFFERS FRAMES: runs that many turns, of a burst or so many frames, between two virtio cards, or two vmxnet3 cards, each with so
//! many buffers (a power of two; more of them leave the caches), for a profiler (`--toggle-collect=*Rings*turn*`) or the clock.
use benches::Rings;
use dataplane::BURST;

fn main() {
    let arg = |n: usize, default: usize| std::env::args().nth(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let vmxnet3 = std::env::args().nth(3).is_some_and(|word| word == "vmxnet3");
    let mut rings = if vmxnet3 {
        Rings::vmxnet3(arg(1, 60))
    } else {
        Rings::with_buffers(arg(1, 60), arg(3, 1) as u16, arg(4, 256) as u16)
    };
    let mut frames = 0;
    let mut spent = std::time::Duration::ZERO;
    for _ in 0..arg(2, 1000) {
        rings.fill_with(arg(5, BURST) as u16);
        let start = std::time::Instant::now();
        frames += rings.turn();
        spent += start.elapsed();
    }
    let ns = spent.as_nanos() as f64 / frames.max(1) as f64;
    println!("{frames} frames, {ns:.1} ns each, accounted: {:?}", rings.delivered());
}
