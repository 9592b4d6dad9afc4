// The host of the gallery's pictures: draws the widget's bundle as alive, on a model that stands
// still at one moment of a real explorer.
(() => {
  let model;
  let bundle;
  let close = () => {};

  /** Put buffers back where the paths say. */
  function restored({ content, paths, buffers }) {
    const copy = structuredClone(content);
    paths.forEach((path, index) => {
      const place = path.slice(0, -1).reduce((within, step) => within[step], copy);
      const bytes = Uint8Array.from(atob(buffers[index]), (one) => one.charCodeAt(0));
      place[path.at(-1)] = new DataView(bytes.buffer);
    });
    return copy;
  }

  function modelAt({ state, answers }) {
    const listeners = [];
    const values = restored(state);
    const fire = (event, ...given) => {
      for (const [own, listener] of [...listeners]) if (own === event) listener(...given);
    };
    return {
      comm_live: true,
      fire,
      get: (name) => values[name],
      on: (event, listener) => void listeners.push([event, listener]),
      off(event, listener) {
        const at = listeners.findIndex(([own, known]) => own === event && known === listener);
        if (at >= 0) listeners.splice(at, 1);
      },
      // What is asked changes nothing here: the kernel agrees, refuses, or says nothing at all.
      send({ type, rid }) {
        const error = answers?.[type];
        if (answers?.nothing) return;
        const reply = error ? { ok: false, error } : { ok: true };
        setTimeout(() => fire("msg:custom", { type: "reply", rid, ...reply }, []));
      },
    };
  }

  Object.assign(globalThis, {
    /** Take the bundle, once for all pictures of a page. */
    async take(module, css) {
      const style = document.createElement("style");
      style.textContent = `:root { color-scheme: light dark } body { margin: 0; background: Canvas } ${css}`;
      document.head.append(style);
      bundle = await import(URL.createObjectURL(new Blob([module], { type: "text/javascript" })));
    },
    /** Draw a moment in place of what is there. */
    draw(moment) {
      close();
      document.body.replaceChildren();
      const el = document.createElement("div");
      document.body.append(el);
      model = modelAt(moment);
      close = bundle.default.render({ model, el });
      for (const message of moment.told) model.fire("msg:custom", restored(message), []);
    },
    /** Let the kernel go, as a host tells of it. */
    die() {
      model.comm_live = false;
      model.fire("comm_live_update");
    },
  });
})();
