// What stands around the widget manager of VS Code's Jupyter extension in its webview, as a page:
// a connection to a kernel, a loader of widget scripts, and outputs below each other. vscode.py
// serves it and says what it leaves out.
import { activate } from "./ipywidgets.js";

const VIEW = "application/vnd.jupyter.widget-view+json";
const STATE = "application/vnd.jupyter.widget-state+json";

activate();
window.vscIPyWidgets8.load();

class Signal {
  slots = [];

  connect(slot) {
    this.slots.push(slot);
  }

  emit(sender, args) {
    for (const slot of this.slots) slot(sender, args);
  }
}

/** One end of a comm. */
class Comm {
  constructor(kernel, targetName, commId) {
    Object.assign(this, { kernel, targetName, commId });
    kernel.comms.set(commId, this);
  }

  open(data, metadata) {
    return this.#tell("comm_open", { data, target_name: this.targetName }, metadata);
  }

  send(data, metadata) {
    return this.#tell("comm_msg", { data }, metadata);
  }

  close(data, metadata) {
    this.kernel.comms.delete(this.commId);
    return this.#tell("comm_close", { data }, metadata);
  }

  #tell(kind, content, metadata) {
    return this.kernel.tell(kind, { comm_id: this.commId, ...content }, metadata);
  }
}

/** A connection to a kernel; without an address one that nobody answers. */
class Kernel {
  handleComms = true;
  status = "idle";
  comms = new Map();
  #targets = new Map();
  #futures = new Map();
  #socket = null;
  /** Messages are handled one after the other, as they come. */
  #last = Promise.resolve();

  constructor(id, address) {
    const names = ["iopubMessage", "statusChanged", "connectionStatusChanged", "disposed"];
    for (const name of names) this[name] = new Signal();
    Object.assign(this, { id, clientId: id && crypto.randomUUID(), username: id && "reader" });
    if (!address) return;
    this.#socket = new WebSocket(`${address}&session_id=${this.clientId}`);
    this.#socket.binaryType = "arraybuffer";
    this.open = new Promise((resolve, reject) => {
      this.#socket.onopen = resolve;
      this.#socket.onerror = () => reject(new Error(`no connection to ${address}`));
    });
    this.#socket.onmessage = (event) => {
      const message = unpacked(event.data);
      this.#last = this.#last.then(() => this.#hear(message));
    };
  }

  registerCommTarget(name, callback) {
    this.#targets.set(name, callback);
  }

  createComm(target, id = crypto.randomUUID()) {
    return new Comm(this, target, id);
  }

  async requestCommInfo(content) {
    return this.tell("comm_info_request", content).done;
  }

  /** Send a message; the answer is `done` of what is returned. */
  tell(kind, content, metadata = {}) {
    const header = {
      msg_id: crypto.randomUUID(),
      msg_type: kind,
      session: this.clientId,
      username: this.username,
      date: new Date().toISOString(),
      version: "5.3",
    };
    const msg = { channel: "shell", header, parent_header: {}, metadata, content, buffers: [] };
    const future = { msg };
    future.done = new Promise((resolve) => {
      future.answered = resolve;
    });
    this.#futures.set(header.msg_id, future);
    this.#socket?.send(JSON.stringify(msg));
    return future;
  }

  async #hear(message) {
    const future = this.#futures.get(message.parent_header.msg_id);
    const { content } = message;
    if (message.channel === "shell") {
      future?.onReply?.(message);
      future?.answered(message);
      return;
    }
    if (message.header.msg_type === "comm_open") {
      const comm = new Comm(this, content.target_name, content.comm_id);
      await this.#targets.get(content.target_name)?.(comm, message);
    } else if (message.header.msg_type === "comm_msg") {
      await this.comms.get(content.comm_id)?.onMsg?.(message);
    } else if (message.header.msg_type === "comm_close") {
      await this.comms.get(content.comm_id)?.onClose?.(message);
    }
    this.iopubMessage.emit(this, message);
    await future?.onIOPub?.(message);
  }
}

/** A message as Jupyter's server packs it: text, or where it has buffers offsets and bytes. */
function unpacked(data) {
  if (typeof data === "string") return JSON.parse(data);
  const count = new DataView(data).getUint32(0);
  const starts = Array.from({ length: count }, (_, at) =>
    new DataView(data).getUint32(4 * (at + 1)),
  );
  const parts = starts.map(
    (start, at) => new DataView(data, start, (starts[at + 1] ?? data.byteLength) - start),
  );
  return { ...JSON.parse(new TextDecoder().decode(parts[0])), buffers: parts.slice(1) };
}

/** A widget's script comes from the environment of its kernel, by RequireJS. */
const scripts = {
  widgetsRegisteredInRequireJs: new Set(),
  async loadWidgetScript(name) {
    requirejs.config({ paths: { [name]: `nbextensions/${name}/index` } });
    this.widgetsRegisteredInRequireJs.add(name);
  },
  successHandler() {},
  errorHandler(className, name, version, error) {
    console.error(`no ${className} of ${name} ${version}: ${error}`);
  },
};

let kernel;
let manager;

function manage(connection, state) {
  kernel = connection;
  manager = new window.vscIPyWidgets.WidgetManager(kernel, undefined, scripts, () => {}, state);
}

/** Show a mime bundle at the end of an element. */
async function show(data, output, saved = false) {
  const part = document.createElement("div");
  output.append(part);
  if (!data[VIEW]) {
    part.innerHTML = data["text/html"] ?? "";
    if (!data["text/html"]) part.textContent = data["text/plain"];
    return part;
  }
  part.className = "cell-output-ipywidget-background";
  Object.assign(part, { tabIndex: 0, role: "region" });
  const model = await manager.get_model(data[VIEW].model_id);
  if (saved) model.comm_live = false;
  const view = await manager.create_view(model, { el: part });
  if (saved) view.initialize({ model, el: part, options: {} });
  await manager.display_view(data, view, { node: part });
  return part;
}

function cell() {
  const output = document.createElement("div");
  output.className = "cell";
  document.body.append(output);
  return output;
}

window.notebook = {
  async connect(id, address) {
    manage(new Kernel(id, address));
    await kernel.open;
  },
  /** Run a cell; what it shows is in the page, and told when the cell has ended. */
  async run(code) {
    const output = cell();
    const asked = kernel.tell("execute_request", { code, silent: false, store_history: true });
    const shown = [];
    const heard = Promise.withResolvers();
    asked.onIOPub = ({ header, content }) => {
      if (["display_data", "execute_result"].includes(header.msg_type)) {
        shown.push(show(content.data, output));
      } else if (header.msg_type === "stream") {
        shown.push(show({ "text/plain": content.text }, output));
      } else if (header.msg_type === "error") {
        shown.push(show({ "text/plain": `${content.ename}: ${content.evalue}` }, output));
      } else if (header.msg_type === "status" && content.execution_state === "idle") {
        heard.resolve();
      }
    };
    const { content } = await asked.done;
    // The answer comes on a channel of its own and may overtake what the cell said on the other.
    await heard.promise;
    await Promise.all(shown);
    return content.status;
  },
  /** Show the outputs of a notebook's cells with the widgets that were saved in it. */
  async reopen({ cells, metadata }) {
    manage(new Kernel(""), metadata.widgets);
    const found = { metadata: { get: () => metadata.widgets } };
    await manager.restoreWidgets(found, { loadKernel: false, loadNotebook: true });
    const known = metadata.widgets?.[STATE]?.state ?? {};
    for (const { outputs } of cells) {
      const output = cell();
      for (const { data } of outputs ?? []) {
        if (!data) continue;
        const gone = data[VIEW] && !known[data[VIEW].model_id];
        // What no model is known of is shown as the next best thing.
        await show(gone ? { ...data, [VIEW]: undefined } : data, output, true);
      }
    }
  },
};
