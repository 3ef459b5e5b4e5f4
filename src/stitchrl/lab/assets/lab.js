// Joins each figure's controls to its chart and its numbers. A figure is drawn when it comes near the screen.
(() => {
  "use strict";
  const figures = {};
  const MINUS = "\u2212";

  function written(value, number) {
    if (value === null || value === undefined) return "\u2013";
    if (typeof value === "string") return value;
    const scaled = number.percent ? 100 * value : value;
    let text = scaled.toFixed(number.decimals);
    if (Number(text) === 0) text = text.replace("-", "");
    return text.replace("-", MINUS) + (number.percent ? "%" : "");
  }

  // A chart takes the width that there is; charts side by side stand below one another on a phone.
  function fitted(specification, available) {
    const made = structuredClone(specification);
    // Texts are measured on a canvas, which knows no CSS variables: with one, labels would be laid out for another font.
    const font = getComputedStyle(document.body).getPropertyValue("--sans").trim();
    if (made.config && font) made.config.font = font;
    const wide = made.usermeta && made.usermeta.width ? made.usermeta.width : 640;
    if (made.hconcat || made.vconcat) {
      if (made.hconcat && available < wide) { made.vconcat = made.hconcat; delete made.hconcat; }
      const room = Math.max(available - 76, 160);
      for (const part of made.vconcat || made.hconcat) if (!part.width || part.width > room) part.width = room;
    } else if (made.facet || (made.encoding && (made.encoding.facet || made.encoding.column))) {
      if (available < wide) {
        if (made.encoding && made.encoding.facet) made.encoding.facet.columns = 1; else made.columns = 1;
        const inner = made.spec || made;
        inner.width = Math.max(available - 76, 160);
      }
    } else if (!made.width || typeof made.width === "number") {  // a width in steps, one for each category, stays
      made.width = made.width ? Math.min(made.width, available) : available;
      made.autosize = { type: "fit", contains: "padding" };
    }
    return made;
  }

  async function draw(element) {
    const name = element.dataset.figure;
    if (figures[name]) return figures[name].ready;
    const content = JSON.parse(element.querySelector("script").textContent);
    const place = element.querySelector(".chart");
    const settings = Object.fromEntries(content.controls.map((control) => [control.name, control.start]));
    const figure = { settings, content, numbers: {}, view: null };
    figures[name] = figure;

    function frame() {
      return content.frames.find((row) => content.controls.every((control) => row[control.name] === settings[control.name]));
    }

    function show() {
      const answer = content.live ? window.stitchrlLive[content.live](settings, content.given) : { numbers: frame() || {}, rows: {} };
      figure.numbers = answer.numbers;
      for (const number of content.numbers)
        element.querySelector(`[data-number="${number.name}"]`).textContent = written(answer.numbers[number.name], number);
      for (const control of content.controls) {
        const at = control.values.indexOf(settings[control.name]);
        const output = element.querySelector(`output[data-control="${control.name}"]`);
        if (output) output.textContent = control.names[at];
      }
      if (!figure.view) return Promise.resolve();
      for (const control of content.controls)
        if (content.signals.includes(control.name)) figure.view.signal(control.name, settings[control.name]);
      for (const [data, rows] of Object.entries(answer.rows || {})) figure.view.data(data, rows);
      return figure.view.runAsync();
    }

    async function embed() {
      if (figure.view) figure.view.finalize();
      const result = await window.vegaEmbed(place, fitted(content.specification, place.clientWidth), {
        renderer: "svg", actions: false, tooltip: { theme: "custom" }, mode: "vega-lite",
      });
      figure.view = result.view;
      figure.width = place.clientWidth;
      await show();
      element.classList.add("drawn");
    }

    figure.set = (control, value) => {
      settings[control] = value;
      const of = content.controls.find((one) => one.name === control);
      const at = of.values.indexOf(value);
      for (const input of element.querySelectorAll(`input[data-control="${control}"]`))
        if (input.type === "range") { input.value = at; input.setAttribute("aria-valuetext", of.names[at]); }
        else input.checked = Number(input.value) === at;
      return show();
    };

    for (const input of element.querySelectorAll("input[data-control]"))
      input.addEventListener("input", () => {
        stop();
        const of = content.controls.find((one) => one.name === input.dataset.control);
        figure.set(of.name, of.values[Number(input.value)]);
      });

    let timer = null;
    const button = element.querySelector("button.play");
    function stop() {
      if (timer === null) return;
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
    }
    if (button) button.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      const of = content.controls.find((one) => one.name === button.dataset.control);
      if (settings[of.name] === of.values[of.values.length - 1]) figure.set(of.name, of.values[0]);
      button.textContent = "Pause";
      timer = setInterval(() => {
        const next = of.values.indexOf(settings[of.name]) + 1;
        if (next >= of.values.length) { stop(); return; }
        figure.set(of.name, of.values[next]);
      }, 650);
    });

    let waiting = null;
    new ResizeObserver(() => {
      if (!figure.view || Math.abs(place.clientWidth - figure.width) < 24) return;
      clearTimeout(waiting);
      waiting = setTimeout(embed, 150);
    }).observe(place);

    figure.ready = embed();
    return figure.ready;
  }

  // The steps of a derivation open one by one: the next is shown when the one before it is open.
  function steps() {
    for (const step of document.querySelectorAll("details.step")) {
      const next = step.nextElementSibling;
      if (!next || !next.matches("details.step")) continue;
      next.classList.toggle("waiting", !step.open && !next.open);
      step.addEventListener("toggle", () => { if (step.open) next.classList.remove("waiting"); });
    }
    for (const first of document.querySelectorAll(":not(details.step) + details.step")) {
      if (!first.nextElementSibling || !first.nextElementSibling.matches("details.step")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "all-steps";
      button.textContent = "Open all steps";
      button.addEventListener("click", () => {
        for (let step = first; step && step.matches("details.step"); step = step.nextElementSibling) {
          step.classList.remove("waiting");
          step.open = true;
        }
        button.remove();
      });
      first.before(button);
    }
  }
  function openAll(which) {
    for (const one of document.querySelectorAll(which)) { one.classList.remove("waiting"); one.open = true; }
  }

  const all = [...document.querySelectorAll("figure[data-figure]")];
  const drawAll = () => Promise.all(all.map(draw));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "600px" });
  for (const element of all) near.observe(element);
  steps();
  window.addEventListener("beforeprint", () => { openAll("details"); drawAll(); });
  window.stitchrl = { figures, drawAll };
})();
