// What a figure computes while a slider moves. Each function has a Python twin that a test holds it to.
window.stitchrlLive = {
  // The expectile of equally likely values: the root of tau * sum (x - m)+ = (1 - tau) * sum (m - x)+.
  expectile({ expectile }, { values }) {
    const mean = (list) => list.reduce((sum, x) => sum + x, 0) / list.length;
    let at = mean(values);
    for (let k = 0; k < 200; k += 1) {
      const weights = values.map((x) => (x > at ? expectile : 1 - expectile));
      const total = weights.reduce((sum, w) => sum + w, 0);
      const next = values.reduce((sum, x, i) => sum + weights[i] * x, 0) / total;
      if (Math.abs(next - at) < 1e-13) break;
      at = next;
    }
    const loss = (m) => mean(values.map((x) => (x > m ? expectile : 1 - expectile) * (x - m) ** 2));
    const low = Math.min(...values) - 1, high = Math.max(...values) + 1;
    const above = (m) => expectile * mean(values.map((x) => Math.max(x - m, 0)));
    const below = (m) => (1 - expectile) * mean(values.map((x) => Math.max(m - x, 0)));
    const curve = [], pulls = [];
    for (let k = 0; k <= 120; k += 1) {
      const m = low + ((high - low) * k) / 120;
      curve.push({ m, loss: loss(m) });
      pulls.push({ m, pull: above(m), side: "up" }, { m, pull: below(m), side: "down" });
    }
    const minimum = [{ m: at, loss: loss(at), pull: above(at) }];
    const numbers = { value: at, pull: above(at), mean: mean(values), highest: Math.max(...values) };
    return { rows: { curve, pulls, minimum }, numbers };
  },
};
