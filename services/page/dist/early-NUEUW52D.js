"use strict";(()=>{try{let t=localStorage.getItem("convoy.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}})();
