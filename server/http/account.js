// What counts of a mailed link stands after the "#". It goes into the form, and out of the address bar and the history.
const label = document.getElementById("token");
if (label) {
  const field = label.querySelector("input");
  if (location.hash.length > 1) {
    field.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
  }
  label.hidden = field.value !== "";
}
