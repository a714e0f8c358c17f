import { show } from "../shared/show.tsx";
import { App } from "./App.tsx";

show(App, "chat");
